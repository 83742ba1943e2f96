-- The file's tables. `main` is what people see (views, but for events and dead letters);
-- `open` holds unfinished runs, `past` finished ones, whose rows never change.
CREATE SCHEMA IF NOT EXISTS open;
CREATE SCHEMA IF NOT EXISTS past;

CREATE TABLE IF NOT EXISTS open.facts(name VARCHAR, value VARCHAR);
CREATE TABLE IF NOT EXISTS open.files(name VARCHAR, file VARCHAR, day DATE, rows BIGINT);
CREATE TABLE IF NOT EXISTS open.offsets(
  topic VARCHAR, partition BIGINT, next_offset BIGINT, epoch BIGINT, seq BIGINT,
  broken BOOLEAN, partial BOOLEAN);

CREATE TABLE IF NOT EXISTS past.events(
  event VARCHAR, sender_id VARCHAR, name VARCHAR, data JSON, "user" JSON, ts TIMESTAMP,
  received_at TIMESTAMP, partition BIGINT, "offset" BIGINT);
CREATE TABLE IF NOT EXISTS past.dead_letters(
  source VARCHAR, error VARCHAR, value BLOB, rejected_at TIMESTAMP, partition BIGINT, "offset" BIGINT);

CREATE TABLE IF NOT EXISTS open.runs(
  run VARCHAR, function VARCHAR, version VARCHAR, event_name VARCHAR, event_id VARCHAR,
  event_ids VARCHAR[], input JSON, invoker_run VARCHAR, invoker_step VARCHAR,
  rerun_of VARCHAR, rerun_from VARCHAR, asked_by VARCHAR, why VARCHAR,
  started_at TIMESTAMP, due_at TIMESTAMP, attempts BIGINT, retry_at TIMESTAMP, stopped BOOLEAN,
  report JSON, partition BIGINT, first_offset BIGINT, last_offset BIGINT, partial BOOLEAN,
  missed BOOLEAN);
CREATE TABLE IF NOT EXISTS open.operations(
  run VARCHAR, step BLOB, kind VARCHAR, name VARCHAR, status VARCHAR, target VARCHAR,
  expression VARCHAR, started_at TIMESTAMP, due_at TIMESTAMP, ended_at TIMESTAMP,
  attempts BIGINT, attempt_started_at TIMESTAMP, retrying BOOLEAN, data JSON, event_id VARCHAR,
  error_name VARCHAR, error_message VARCHAR, error_stack VARCHAR);
CREATE TABLE IF NOT EXISTS open.attempts(
  run VARCHAR, step BLOB, name VARCHAR, attempt BIGINT, started_at TIMESTAMP,
  ended_at TIMESTAMP, retry_at TIMESTAMP, error_name VARCHAR, error_message VARCHAR,
  error_stack VARCHAR);

CREATE TABLE IF NOT EXISTS past.runs(
  run VARCHAR, function VARCHAR, version VARCHAR, status VARCHAR, event_name VARCHAR,
  event_id VARCHAR, event_ids VARCHAR[], input JSON, output JSON, error_name VARCHAR,
  error_message VARCHAR, error_stack VARCHAR, reason VARCHAR, invoker_run VARCHAR,
  invoker_step VARCHAR, rerun_of VARCHAR, rerun_from VARCHAR, asked_by VARCHAR, why VARCHAR,
  started_at TIMESTAMP, due_at TIMESTAMP, ended_at TIMESTAMP,
  duration_ms BIGINT, attempts BIGINT, partition BIGINT, first_offset BIGINT, last_offset BIGINT,
  partial BOOLEAN);
CREATE TABLE IF NOT EXISTS past.steps(
  run VARCHAR, function VARCHAR, step VARCHAR, status VARCHAR, attempts BIGINT,
  started_at TIMESTAMP, attempt_started_at TIMESTAMP, ended_at TIMESTAMP, duration_ms BIGINT,
  output JSON, error_name VARCHAR, error_message VARCHAR, error_stack VARCHAR,
  attempt_open BOOLEAN, run_ended_at TIMESTAMP);
-- What slow_steps and flaky_steps need of past.steps and of the files of older history, summed up
-- for each batch: two rows may be of the same step and bucket.
CREATE TABLE IF NOT EXISTS past.step_sums(
  function VARCHAR, step VARCHAR, bucket SMALLINT, steps BIGINT, max_ms BIGINT, total_ms BIGINT,
  tried BIGINT, retried BIGINT, failed BIGINT, attempts BIGINT);
-- What failures needs of past.steps, past.runs and the files of older history.
CREATE TABLE IF NOT EXISTS past.failed(
  function VARCHAR, step VARCHAR, error_name VARCHAR, error_message VARCHAR, shape VARCHAR,
  run VARCHAR, ended_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS past.attempts(
  run VARCHAR, function VARCHAR, step VARCHAR, attempt BIGINT, started_at TIMESTAMP,
  ended_at TIMESTAMP, duration_ms BIGINT, retry_at TIMESTAMP, error_name VARCHAR,
  error_message VARCHAR, error_stack VARCHAR, run_ended_at TIMESTAMP);
-- Empty: recordings lie in the files of older history alone.
CREATE TABLE IF NOT EXISTS past.recordings(
  run VARCHAR, function VARCHAR, ended_at TIMESTAMP, recording BLOB, run_ended_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS past.waits(
  run VARCHAR, function VARCHAR, step VARCHAR, kind VARCHAR, status VARCHAR, event_name VARCHAR,
  expression VARCHAR, event_id VARCHAR, data JSON, started_at TIMESTAMP, due_at TIMESTAMP,
  ended_at TIMESTAMP, duration_ms BIGINT, run_ended_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS past.signals(
  run VARCHAR, function VARCHAR, step VARCHAR, signal VARCHAR, status VARCHAR, data JSON,
  started_at TIMESTAMP, due_at TIMESTAMP, ended_at TIMESTAMP, duration_ms BIGINT,
  run_ended_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS past.invocations(
  run VARCHAR, function VARCHAR, step VARCHAR, invoked VARCHAR, status VARCHAR, output JSON,
  error_name VARCHAR, error_message VARCHAR, error_stack VARCHAR, started_at TIMESTAMP,
  due_at TIMESTAMP, ended_at TIMESTAMP, duration_ms BIGINT, run_ended_at TIMESTAMP);
