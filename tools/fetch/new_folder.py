"""A folder that appears whole or not at all."""
import contextlib
import os
import shutil
import sys
import tempfile


@contextlib.contextmanager
def new_folder(path):
    """Yields (folder to fill, folder for scratch files). At the end the first is moved to `path`, which must not exist."""
    out = os.path.abspath(path)
    if os.path.exists(out):
        sys.exit(f"{path} exists already")
    os.makedirs(os.path.dirname(out), exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=f".{os.path.basename(out)}-", dir=os.path.dirname(out))
    try:
        folder = os.path.join(scratch, "new")
        os.mkdir(folder)
        yield folder, scratch
        os.rename(folder, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(out)
