import pytest

import harness


@pytest.fixture(scope="module")
def shared():
    """One Python kernel for the tests of a module that leave it usable; a failed test gets a fresh one after it."""
    box = {"kernel": harness.Kernel()}
    yield box
    box["kernel"].close()


@pytest.fixture
def py(shared, request):
    if shared["kernel"].process.poll() is not None or shared.get("dirty"):
        shared["kernel"].close()
        shared["kernel"] = harness.Kernel()
    shared["dirty"] = True
    yield shared["kernel"]
    shared["dirty"] = bool(getattr(request.node, "failed", False))


@pytest.fixture
def fresh():
    kernel = harness.Kernel()
    yield kernel
    kernel.close()


@pytest.fixture
def sh():
    kernel = harness.Kernel(harness.shell_command())
    yield kernel
    kernel.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call" and outcome.get_result().failed:
        item.failed = True
