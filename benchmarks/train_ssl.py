"""Train a network without labels, measure its maps epoch by epoch; --help, or ``train_ssl``.

python benchmarks/train_ssl.py train --backbone resnet18 --output runs/ssl
python benchmarks/train_ssl.py evaluate --run runs/ssl --output outputs/ssl
torchrun --nproc_per_node 2 benchmarks/train_ssl.py train ...
"""

from _script import run

if __name__ == "__main__":
    run("train_ssl")
