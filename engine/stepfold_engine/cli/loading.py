"""The author's file: imported from its path, and again when it changes."""

import importlib
import importlib.util
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from stepfold.app import App


class LoadError(Exception):
    """The file cannot be used; the message says what to change."""


class NoSuchFileError(LoadError):
    """There is no such file."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the command was given: a file, and the name of an app in it ("" the only one)."""

    path: Path
    name: str = ""

    @property
    def folder(self) -> Path:
        """The folder that is watched, and from which the file imports its neighbours."""
        folder = self.path.parent
        while (folder / "__init__.py").exists():
            folder = folder.parent
        return folder

    @property
    def module(self) -> str:
        """The name under which the file is imported."""
        inner = self.path.relative_to(self.folder).with_suffix("")
        if len(inner.parts) > 1:
            return ".".join(inner.parts)
        taken = self.path.stem in sys.stdlib_module_names or not self.path.stem.isidentifier()
        return f"stepfold_app_{self.path.stem}" if taken else self.path.stem


def parse_target(text: str) -> Target:
    """Read ``FILE`` or ``FILE:app``.

    Raises:
        NoSuchFileError: there is no such file.
    """
    file, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier() or Path(text).is_file():
        file, name = text, ""
    path = Path(file).resolve()
    if not path.is_file():
        what = "is a folder; give a Python file" if path.is_dir() else "there is no such file"
        raise NoSuchFileError(f"{file}: {what}")
    return Target(path, name)


def load(target: Target) -> App:
    """Import the file anew, with everything else in its folder, and return its app.

    Raises:
        LoadError: it cannot be imported, or it has no app, or several.
    """
    folder = str(target.folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # Bytecode of a file that changed twice within a second would be taken for current.
    sys.dont_write_bytecode = True
    kept = _purge(target.folder)
    importlib.invalidate_caches()
    try:
        return _find(_import(target), target)
    except LoadError:
        _purge(target.folder)
        sys.modules.update(kept)
        raise


def _purge(folder: Path) -> dict[str, ModuleType]:
    """Forget the modules in a folder; return them. Installed packages stay."""
    found: dict[str, ModuleType] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name == "__main__":
            continue
        path = Path(file)
        if path.is_relative_to(folder) and not _is_installed(path, folder, name):
            found[name] = sys.modules.pop(name)
    return found


def _is_installed(path: Path, folder: Path, name: str) -> bool:
    own = ("stepfold", "stepfold_engine", "stepfold_schemas")
    inside = path.relative_to(folder).parts
    return "site-packages" in inside or name.partition(".")[0] in own


def _import(target: Target) -> ModuleType:
    name = target.module
    try:
        if "." in name:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, target.path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{target.path.name} is not a Python file")  # noqa: TRY301 - told below
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f"{error.filename or target.path}, line {error.lineno}"
        line = (error.text or "").rstrip()
        raise LoadError(f"{where}: {error.msg}\n    {line.strip()}") from error
    except (Exception, SystemExit) as error:  # whatever the author's code raises
        raise LoadError(_told(target, error)) from error
    return module


def _told(target: Target, error: BaseException) -> str:
    """Say what went wrong on import, with the author's own lines and no others."""
    frames = [
        f"  {frame.filename}, line {frame.lineno}: {frame.line}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(target.folder)
    ]
    head = f"{target.path.name} cannot be loaded: {type(error).__name__}: {error}"
    return "\n".join([head, *frames])


def _find(module: ModuleType, target: Target) -> App:
    names: dict[str, App] = {k: v for k, v in vars(module).items() if isinstance(v, App)}
    if target.name:
        found = names.get(target.name)
        if found is None:
            there = f"; there is {', '.join(sorted(names))}" if names else ""
            raise LoadError(f"{target.path.name} has no app named {target.name!r}{there}")
        return found
    apps = {id(app): name for name, app in names.items()}
    if not apps:
        text = 'make one: app = stepfold.App("my-app")'
        raise LoadError(f"{target.path.name} has no app in it; {text}")
    if len(apps) > 1:
        text = f"choose one: stepfold dev {target.path.name}:{sorted(apps.values())[0]}"
        raise LoadError(f"{target.path.name} has {len(apps)} apps in it; {text}")
    return names[next(iter(apps.values()))]
