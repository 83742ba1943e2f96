"""A week of three example apps under virtual time, written as a log that SQL can be asked about.

python -m examples.week.app FOLDER

The same folder always holds the same history: nothing in it depends on the machine or its clock.
"""

import asyncio
import os
import random
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import stepfold
from stepfold.testing import Environment
from stepfold_engine.log.copying import copy_log

FIRST_DAY = datetime(2026, 1, 5, tzinfo=UTC)
DAYS = 7
ORDERS_A_DAY = 24
TRIPS = 12
SIGN_UPS = 18

os.environ.setdefault("ORDERS_FOLDER", tempfile.mkdtemp(prefix="orders-"))

from examples.approval.app import app as travel  # noqa: E402 - the orders' folder comes first
from examples.drip.app import app as mail  # noqa: E402
from examples.orders.app import app as shop  # noqa: E402


def everything() -> stepfold.App:
    """Return one app with the functions of all three."""
    app = stepfold.App("week")
    for part in (shop, travel, mail):
        for function in part.functions.values():
            app.add(function)
    return app


def plan(env: Environment, rolled: random.Random) -> None:
    """Say what happens when: orders, trips that somebody decides on or forgets, sign-ups."""

    def some_time() -> datetime:
        # Mostly in the daytime.
        hour = min(max(rolled.gauss(14, 4), 0), 23.9)
        day = rolled.randrange(DAYS - 1)
        return FIRST_DAY + timedelta(days=day, hours=hour, seconds=rolled.randrange(60))

    for number in range(ORDERS_A_DAY * (DAYS - 1)):
        amount = rolled.choice([0, 15, 40, 90, 120, 250, 480, 950])
        order = {
            "order_id": f"order-{number}",
            "amount": amount if amount or rolled.random() < 0.3 else 30,
            "customer": f"customer-{rolled.randrange(40)}",
        }
        env.at(some_time()).send("shop/order.created", order, id=f"order-{number}")
    for number in range(TRIPS):
        at = some_time()
        env.at(at).send("trip/asked", {"trip_id": f"t{number}"}, id=f"trip-{number}")
        if number % 4:
            decided = at + timedelta(hours=rolled.uniform(0.2, 30))
            answer = "no" if number % 4 == 1 else "yes"
            env.at(decided).signal(f"trip/t{number}", answer)
    for number in range(SIGN_UPS):
        at, user = some_time(), {"email": f"user{number}@example.com"}
        env.at(at).send("user/signed-up", user, id=f"user-{number}")
        if number % 6 == 0:
            env.at(at + timedelta(days=2)).send("user/deleted", user, id=f"deleted-{number}")
    env.at(some_time()).send("newsletter/opened", {"issue": 7}, id="newsletter-7")


def make_week(folder: Path) -> None:
    """Let the week pass, and write its log into a folder that holds none."""
    with Environment(everything(), start=FIRST_DAY) as env:
        plan(env, random.Random(26))
        env.advance(FIRST_DAY + timedelta(days=DAYS))
        asyncio.run(copy_log(env.stage.life.log, folder, lambda *_: None))


if __name__ == "__main__":
    make_week(Path(sys.argv[1]))
