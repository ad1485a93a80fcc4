"""The command ``reid-explain``."""
