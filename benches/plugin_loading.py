"""What plugins add to the start of farmhand: `list` with and without them, in turns.

    python benches/plugin_loading.py --farmhand target/debug/farmhand --kind learner --plugins 20 --folder /tmp/plugins

The plugins are what `farmhand plugin new` writes, each under a name of its own, built by `farmhand plugin build`: a learner's holds
tensors, models and a tokenizer, and is the largest of them. Plugins that lie in the folder from an earlier call are built again only where
farmhand has changed.
"""

import argparse
import os
import pathlib
import subprocess
import time


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--farmhand", type=pathlib.Path, required=True)
    parser.add_argument("--kind", default="learner", choices=["learner", "policy", "reward-model", "annotator", "evaluator"])
    parser.add_argument("--plugins", type=int, default=20)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where the crates are written and stay")
    parser.add_argument("--rounds", type=int, default=25)
    return parser.parse_args()


def built(farmhand, folder, kind, name):
    """The shared library of a new crate of this kind and name."""
    crate = folder / "crates" / name
    if not crate.exists():
        subprocess.run([farmhand, "plugin", "new", name, "--kind", kind, "--dir", crate, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    said = subprocess.run([farmhand, "plugin", "build", crate, "--quiet"], check=True, stdout=subprocess.PIPE, text=True)
    return pathlib.Path(said.stdout.strip())


def timed(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - start)


def main():
    arguments = parse()
    farmhand = arguments.farmhand.resolve()
    folder = arguments.folder.resolve() / arguments.kind
    loaded = folder / "loaded"
    loaded.mkdir(parents=True, exist_ok=True)
    for old in loaded.iterdir():
        old.unlink()
    for i in range(arguments.plugins):
        library = built(farmhand, folder, arguments.kind, f"plugin_{i:02}")
        os.link(library, loaded / library.name)
    size = sum(library.stat().st_size for library in loaded.iterdir()) / arguments.plugins / 1e6

    without, with_plugins = [], []
    for _ in range(arguments.rounds):
        without.append(timed([farmhand, "list"]))
        with_plugins.append(timed([farmhand, "--plugin", loaded, "list"]))
    added = min(with_plugins) - min(without)
    print(f"{arguments.plugins} plugins of kind {arguments.kind}, {size:.0f} MB each: `list` takes {min(without):.1f} ms without and {min(with_plugins):.1f} ms with them")
    print(f"they add {added:.1f} ms, {added / arguments.plugins:.2f} ms each (least of {arguments.rounds}, in turns)")


if __name__ == "__main__":
    main()
