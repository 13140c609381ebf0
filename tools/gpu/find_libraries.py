"""Prints where this Python's packages keep cuBLAS, cuSPARSELt and what they need, as LD_LIBRARY_PATH=..., and what is there."""
import glob
import os
import sys

WANTED = ("libcublas.so", "libcublasLt.so", "libcusparseLt.so", "libcudart.so")


def main():
    folders = {}
    for root in sys.path:
        for pattern in ("nvidia/*/lib", "torch/lib"):
            for folder in sorted(glob.glob(os.path.join(root, pattern))):
                names = [name for name in os.listdir(folder) if name.startswith(WANTED)]
                if names:
                    folders[folder] = names
    print("LD_LIBRARY_PATH=" + ":".join(folders))
    for folder, names in folders.items():
        print(f"{folder}: {', '.join(sorted(names))}")
    try:
        import torch
        print(f"PyTorch {torch.__version__}")
    except ImportError as error:
        print(f"no PyTorch: {error}")


if __name__ == "__main__":
    main()
