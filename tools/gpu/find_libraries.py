"""Prints where this Python's packages keep cuBLAS, cuSPARSELt and what they need, as LD_LIBRARY_PATH=..., and what is there."""
import glob
import os
import site
import sys
import sysconfig

WANTED = ("libcublas.so", "libcublasLt.so", "libcusparseLt.so", "libcudart.so")


def main():
    roots = dict.fromkeys([sysconfig.get_paths()["purelib"], *site.getsitepackages(), site.getusersitepackages(), *sys.path])
    folders = {}
    for root in roots:
        for pattern in ("nvidia/*/lib", "nvidia/*/*/lib", "torch/lib", "cusparselt/lib", "nvidia/cusparselt/lib"):
            for folder in sorted(glob.glob(os.path.join(root, pattern))):
                for name in os.listdir(folder):
                    if name.startswith(WANTED):
                        folders.setdefault(folder, []).append(name)
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
