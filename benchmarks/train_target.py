"""Train a re-identification network with the bag of tricks; --help, or ``train_target``.

python benchmarks/train_target.py --dataset synthetic --backbone resnet18 --output runs/target
torchrun --nproc_per_node 2 benchmarks/train_target.py ...
accelerate launch benchmarks/train_target.py ...
"""

from _script import run

if __name__ == "__main__":
    run("train_target")
