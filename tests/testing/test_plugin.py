"""The pytest plugin, in a pytest of its own: what it gives, what it costs, what people read."""

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

APP = """
import stepfold

app = stepfold.App("shop")


def charge(order_id):
    raise ConnectionError(f"no bank for order {order_id}")


@app.function("order", on="order", retries=0)
async def order(ctx):
    await ctx.step.sleep("wait", "3d")
    return await ctx.step.run("charge", charge, ctx.event.data["order_id"])
"""


def test_the_fixture_runs_an_app_and_ends_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(shop=APP)
    pytester.makepyfile(
        """
        import pytest, shop

        def test_order(stepfold_env):
            env = stepfold_env(shop.app, start="2030-01-01T00:00:00Z")
            env.stub("charge", returns="paid")
            run = env.send("order", {"order_id": 7}).run
            env.advance("3d")
            assert run.result == "paid"

        def test_another_order(stepfold_env):
            env = stepfold_env(shop.app)
            assert env.runs == []
            env.send("order", {"order_id": 7})

        def test_nothing_is_left():
            assert shop.app.engine is None
        """
    )
    result = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=3)


def test_a_failing_assertion_says_why_the_run_failed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(shop=APP)
    pytester.makepyfile(
        """
        import shop

        def test_status(stepfold_env):
            env = stepfold_env(shop.app)
            run = env.send("order", {"order_id": 7}).run
            env.finish()
            assert run.status == "completed"

        def test_result(stepfold_env):
            env = stepfold_env(shop.app)
            run = env.send("order", {"order_id": 7}).run
            env.finish()
            assert run.result == "paid"

        def test_waiting(stepfold_env):
            env = stepfold_env(shop.app, start="2030-01-01T00:00:00Z")
            run = env.send("order", {"order_id": 7}).run
            assert run.status == "completed"
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "*assert 'failed' == 'completed'*",
            "*<run of shop-order: failed with *ConnectionError: no bank for order 7*",
            "*<sleep 'wait' completed>*",
            "*shop.py*in charge*",
            "*RunNotCompletedError: <run of shop-order: failed with*",
            '*raise ConnectionError(f"no bank for order {order_id}")*',
            "*assert 'waiting' == 'completed'*",
            "*<run of shop-order: waiting for sleep 'wait': until 2030-01-04 00:00:00>*",
        ],
        consecutive=False,
    )


def test_the_plugin_does_not_import_the_engine() -> None:
    code = "import sys, stepfold.pytest_plugin; sys.exit('stepfold_engine' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['fastavro'] = None\n"
        "try:\n    import stepfold.testing\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'stepfold[engine]'" in done.stdout
    assert "fastavro" in done.stdout
