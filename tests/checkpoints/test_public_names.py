"""The names the package offers."""

import importlib
import pkgutil

import mechtest.checkpoints as package


def test_every_public_name_loads():
    for name in dir(package):
        assert getattr(package, name).__name__ == name


def test_no_public_name_is_a_module_too():
    # Importing the module would replace the name by it, but only in some import orders.
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert modules & set(dir(package)) == set()
    for module in modules:
        importlib.import_module(f"mechtest.checkpoints.{module}")
    assert callable(package.locate)
