"""Settings: every limit and delay of the engine, named, with its unit and its default."""

from pydantic import BaseModel, ConfigDict, Field

from stepfold_engine.core.limits import Limits

DAY_MS = 86_400_000


class Settings(BaseModel):
    """What may be set. Times are milliseconds, sizes are bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    always_replay: bool = Field(
        default=False, description="Replay a run from its journal whenever something happens."
    )
    steps_a_run_max: int = Field(default=1_000, gt=0, description="Steps and waits of one run.")
    outcome_bytes_max: int = Field(default=4 << 20, gt=0, description="One step's outcome.")
    state_bytes_max: int = Field(default=32 << 20, gt=0, description="All outcomes of one run.")
    deaths_max: int = Field(
        default=3, gt=0, description="How often a run, alone, may kill its process."
    )
    inputs_max: int = Field(
        default=10_000, gt=0, description="Inputs of one partition that may wait to be decided."
    )
    positions_every_ms: int = Field(
        default=10_000, gt=0, description="How often read positions are noted if nothing happens."
    )
    positions_every_inputs: int = Field(
        default=10_000, gt=0, description="After how many inputs read positions are noted."
    )
    round_records_min: int = Field(
        default=200_000, gt=0, description="Records of a journal between two rounds of restating."
    )
    journal_keep_ms: int = Field(
        default=30 * DAY_MS, ge=0, description="How long a journal is kept for readers."
    )
    journal_keep_bytes: int = Field(
        default=8 << 30, ge=0, description="How much of a journal is kept for readers."
    )
    events_keep_ms: int = Field(default=30 * DAY_MS, ge=0, description="How long events are kept.")
    events_keep_bytes: int = Field(
        default=8 << 30, ge=0, description="How much of a partition of events is kept."
    )
    look_at_clock_every_ms: int = Field(
        default=30_000, gt=0, description="How soon timers notice that the clock jumped ahead."
    )
    trial_survive_ms: int = Field(
        default=5_000, gt=0, description="A suspect that lives this long has got on."
    )

    @property
    def limits(self) -> Limits:
        """The limits of a run, for the core."""
        return Limits(
            steps=self.steps_a_run_max,
            outcome_bytes=self.outcome_bytes_max,
            state_bytes=self.state_bytes_max,
            deaths=self.deaths_max,
        )
