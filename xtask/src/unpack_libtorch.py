"""Unpacks the parts of the wheels that farmhand builds and runs against: unpack_libtorch.py WHEELS DESTINATION."""

import os
import sys
import zipfile

FILES = {
    "torch/version.py",
    "torch/lib/libc10.so",
    "torch/lib/libgomp.so.1",
    "torch/lib/libtorch.so",
    "torch/lib/libtorch_cpu.so",
    "nvidia/cu13/lib/libcudart.so.13",
    "nvidia/cu13/lib/libcupti.so.13",
}


def wanted(name):
    return name in FILES or (name.startswith("torch/include/") and not name.endswith("/"))


wheels, destination = sys.argv[1:]
missing = set(FILES)
try:
    for wheel in sorted(os.listdir(wheels)):
        path = os.path.join(wheels, wheel)
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if wanted(name)]
            for name in names:
                archive.extract(name, destination)
            missing.difference_update(names)
        os.remove(path)
except (OSError, zipfile.BadZipFile) as error:
    sys.exit(f"cannot unpack `{wheel}`: {error}")
if missing:
    sys.exit("the wheels lack " + ", ".join(sorted(missing)))
