"""Parts of the training recipe for a re-identification network."""
