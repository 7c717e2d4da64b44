#!/usr/bin/env python3
"""Build a Cella template: recipe in, immutable content-addressed root out. `cella template build RECIPE` calls this.

    build_template.py --state /var/lib/cella python.toml

With it, where the host can run virtual machines, what the microVM driver boots (builder/machine_image.py).

Prints one JSON object about the template on stdout, progress on stderr.
Exit status: 0 built or already there, 2 wrong recipe or usage, 1 the build failed.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
from pathlib import Path

from builder import BUILDER_VERSION, customise, shrink
from builder.aptsources import host_sources, proxy_options
from builder.chroot import Runner
from builder.errors import BuildError
from builder.machine_image import Machine, usable_here
from builder.progress import Progress
from builder.recipe import Recipe, RecipeError, load
from builder.store import Cache, Store, recipe_hash, template_id

STEPS = 7


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cella template build", description="Build a template from a recipe.")
    parser.add_argument("recipe", help="path of the recipe (TOML)")
    parser.add_argument("--state", default="/var/lib/cella", help="state directory (default: %(default)s)")
    parser.add_argument("--cache", default=os.environ.get("CELLA_TEMPLATE_CACHE", "/var/cache/cella/templates"),
                        help="where built roots are kept by recipe; empty: nowhere (default: %(default)s)")
    parser.add_argument("--mirror", action="append", default=[], help="Debian mirror, instead of the sources of this host's apt")
    parser.add_argument("--rebuild", action="store_true", help="build even when this recipe was built before: takes up new package versions")
    parser.add_argument("--machine", choices=["auto", "yes", "no"], default="auto",
                        help="also make the files that the microVM driver boots (default: where this host can run virtual machines)")
    parser.add_argument("--guest", help="cella-guest, for the machine (default: beside the cella program)")
    parser.add_argument("--contexts", help="directory of the contexts' kernels, for the machine (default: the same)")
    parser.add_argument("--check", action="store_true", help="only check the recipe")
    return parser.parse_args(argv)


def debootstrap(root: str, recipe: Recipe, mirrors: list[str], runner: Runner) -> None:
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"]
    if recipe.apt:
        command.append(f"--include={','.join(recipe.apt)}")
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in shrink.EXCLUDE]
    command += [f"--dpkgopt=path-include={pattern}" for pattern in shrink.INCLUDE]
    command += [f"--aptopt={option}" for option in ['Acquire::Languages "none"', *proxy_options()]]
    runner.run([*command, recipe.suite, root, *(mirrors or host_sources(recipe.suite))])


def build(recipe: Recipe, work: str, mirrors: list[str], progress: Progress) -> dict:
    """Everything between an empty directory and a manifest."""
    root = os.path.join(work, "root")

    def show(line: str) -> None:
        if match := re.match(r"(?:I: |Setting up |Unpacking |Collecting |added )(.*)", line):
            progress.detail(match.group(1))

    runner = Runner(os.path.join(work, "build.log"), show)
    progress.step(f"install Debian {recipe.suite} and {len(recipe.apt)} packages")
    debootstrap(root, recipe, mirrors, runner)
    progress.step("leave out what is not needed at run time")
    customise.leave_out(root, recipe.leave_out, runner)
    progress.step(f"install {len(recipe.pip)} pip and {len(recipe.npm)} npm packages")
    customise.language_packages(root, recipe, runner)
    shrink.drop_test_suites(root)
    progress.step("user, files and environment")
    customise.user(root)
    customise.identity(root)
    customise.files(root, recipe)
    progress.step("font list and bytecode")
    customise.caches(root, runner)
    progress.step("check that the preload code runs as the cell's user")
    languages = customise.verify(root, recipe, runner)
    packages = customise.resolved(root)
    progress.step("clean up, strip privileges, flush to disk")
    shrink.shrink(root, [entry.path for entry in recipe.files])
    size = shrink.harden(root)
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"id": template_id(recipe, packages), "name": recipe.name, "aliases": recipe.aliases,
            "description": recipe.description, "created_at": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "recipe_sha256": recipe_hash(recipe), "builder_version": BUILDER_VERSION, "languages": languages,
            "size_bytes": size, "limits": recipe.limits, "env": recipe.env, "packages": packages, "recipe": recipe.as_dict()}


def from_cache(cache: Cache, recipe: Recipe, work: str, progress: Progress) -> dict | None:
    key = recipe_hash(recipe)
    if not cache.directory or not cache.has(key):
        return None
    progress.steps = 1
    progress.step("copy the root from the cache")
    manifest = cache.fetch(key, work)
    progress.done()
    if manifest is None:
        progress.say("the cached copy is damaged; building anew")
        progress.number, progress.steps = 0, STEPS
    return manifest


def machine(options: argparse.Namespace, manifest: dict, progress: Progress) -> str:
    """→ "made" | "present" | "none"."""
    why = usable_here() if options.machine == "auto" else None
    if options.machine == "no" or why:
        return "none"
    state = Path(options.state).absolute()
    progress.steps = progress.number
    try:
        if not options.guest or not options.contexts:
            raise BuildError("cella-guest and the contexts' kernels are not known", "call it as `cella template build`, or give --guest and --contexts")
        files = Machine(state / "machines" / manifest["id"], state / "templates" / manifest["id"], manifest["id"], Path(options.guest), Path(options.contexts),
                        Path(options.cache or state / "machines") / "kernels")
        made = files.make(progress)
    except (BuildError, OSError) as problem:
        if options.machine == "yes":
            raise BuildError(f"the template is built, its machine is not: {problem}", getattr(problem, "hint", None)) from None
        progress.say(f"note: no machine for the microVM driver: {problem}")
        return "none"
    if made:
        progress.say(f"machine for the microVM driver: {', '.join(made)}")
    return "made" if made else "present"


def make(options: argparse.Namespace, recipe: Recipe) -> tuple[dict, str]:
    """→ (manifest, "present" | "cached" | "built"); the machine's state is manifest["machine"]."""
    store, progress = Store(options.state), Progress(STEPS)
    with store.locked():
        manifest, how = template(options, recipe, store, progress)
        return manifest | {"machine": machine(options, manifest, progress)}, how


def template(options: argparse.Namespace, recipe: Recipe, store: Store, progress: Progress) -> tuple[dict, str]:
    cache = Cache(options.cache)
    store.check_names(recipe)
    present = store.manifest(recipe.name)
    if present and present.get("recipe_sha256") == recipe_hash(recipe) and not options.rebuild:
        store.name(present)
        return present, "present"
    work = store.workspace()
    manifest = None if options.rebuild else from_cache(cache, recipe, work, progress)
    how = "cached" if manifest else "built"
    if manifest is None:
        manifest = build(recipe, work, options.mirror, progress)
    place = store.publish(work, manifest)
    store.name(manifest)
    progress.done()
    if how == "built" and cache.directory and not cache.keep(manifest["recipe_sha256"], place, manifest["size_bytes"]):
        progress.say(f"note: no copy was kept in {cache.directory} (not writable, or too little space)")
    progress.say(f"template \"{manifest['name']}\" {manifest['id'][:12]}: {manifest['size_bytes'] / 1e6:.0f} MB, "
                 f"{len(manifest['packages'])} packages, {progress.seconds():.0f} s")
    return manifest, how


def main(argv: list[str]) -> int:
    options = arguments(argv)
    os.umask(0o022)
    try:
        recipe = load(options.recipe)
        if options.check:
            print(json.dumps({"name": recipe.name, "valid": True, "recipe_sha256": recipe_hash(recipe)}))
            return 0
        if os.geteuid() != 0:
            raise BuildError("building a template needs root", "it makes files of several owners: run it with sudo")
        manifest, how = make(options, recipe)
    except BuildError as problem:
        print(f"\ncella: {problem}" if sys.stderr.isatty() else f"cella: {problem}", file=sys.stderr)
        if problem.hint:
            print(f"hint: {problem.hint}", file=sys.stderr)
        return 2 if isinstance(problem, RecipeError) else 1
    except KeyboardInterrupt:
        print("\ncella: broken off; nothing was changed", file=sys.stderr)
        return 130
    print(json.dumps({key: manifest[key] for key in ("id", "name", "aliases", "size_bytes", "languages", "created_at", "machine")} | {"how": how}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
