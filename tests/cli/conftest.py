"""The command line runs within the test's process; what it sets for the whole process is undone."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory):
    """Compiled programs are kept for the module's runs alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture
def mmjax(capsys):
    """Runs `mmjax ARGUMENTS`: (exit code, standard output, standard error)."""
    from mmjax.cli.main import main

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(mmjax):
    """Runs `mmjax ARGUMENTS`, which must be refused as bad input in one line; returns that line."""

    def run(*arguments):
        code, out, err = mmjax(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
        assert "Traceback" not in err
        return err.removeprefix("error: ").strip()

    return run
