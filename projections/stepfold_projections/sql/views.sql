-- failures
SELECT function, step, error_name, shape,
  count(*) AS failures, count(DISTINCT run) AS runs, min(ended_at) AS first_at,
  max(ended_at) AS last_at, arg_max(run, ended_at) AS example_run,
  arg_max(error_message, ended_at) AS example
FROM {failed} GROUP BY ALL ORDER BY failures DESC, function, step, error_name, shape;

-- slow_steps
WITH buckets AS (
  SELECT function, step, bucket, sum(steps) AS steps, max(max_ms) AS max_ms,
    sum(total_ms) AS total_ms
  FROM {step_sums} WHERE bucket IS NOT NULL GROUP BY ALL),
sums AS (
  SELECT *, sum(steps) OVER (PARTITION BY function, step ORDER BY bucket) AS upto,
    sum(steps) OVER (PARTITION BY function, step) AS whole FROM buckets)
SELECT function, step, CAST(sum(steps) AS BIGINT) AS steps,
  least(max(max_ms), CAST(round(exp(min(bucket) FILTER (WHERE upto >= 0.5 * whole) / 20.0))
    AS BIGINT)) AS p50_ms,
  least(max(max_ms), CAST(round(exp(min(bucket) FILTER (WHERE upto >= 0.95 * whole) / 20.0))
    AS BIGINT)) AS p95_ms,
  max(max_ms) AS max_ms, CAST(sum(total_ms) AS BIGINT) AS total_ms
FROM sums GROUP BY function, step ORDER BY total_ms DESC, function, step;

-- flaky_steps
SELECT function, step, CAST(sum(tried) AS BIGINT) AS steps, CAST(sum(retried) AS BIGINT) AS retried,
  CAST(sum(failed) AS BIGINT) AS failed, sum(retried) / sum(tried) AS retried_share,
  CAST(sum(attempts) AS BIGINT) AS attempts
FROM {step_sums} GROUP BY function, step
HAVING sum(retried) > 0 OR sum(failed) > 0
ORDER BY retried_share DESC, failed DESC, function, step;

-- run_timeline
SELECT run, function, 'run' AS kind, function AS name, status, attempts AS attempt, started_at,
  ended_at, duration_ms, coalesce(error_message, reason, event_name) AS detail FROM {runs}
UNION ALL
SELECT run, function, 'step', step, status, attempts, started_at, ended_at, duration_ms,
  error_message FROM {steps}
UNION ALL
SELECT run, function, 'attempt', step, status, attempt, started_at, ended_at, duration_ms,
  error_message FROM {attempts} WHERE status = 'failed' AND retry_at IS NOT NULL
UNION ALL
SELECT run, function, kind, step, status, NULL, started_at, ended_at, duration_ms, event_name
FROM {waits}
UNION ALL
SELECT run, function, 'signal', step, status, NULL, started_at, ended_at, duration_ms, signal
FROM {signals}
UNION ALL
SELECT run, function, 'invocation', step, status, NULL, started_at, ended_at, duration_ms,
  coalesce(error_message, invoked) FROM {invocations};

-- throughput
WITH moments AS (
  SELECT date_trunc('minute', started_at) AS minute, function, 'started' AS what FROM {runs}
  UNION ALL
  SELECT date_trunc('minute', ended_at), function, status FROM {runs}
  WHERE ended_at IS NOT NULL)
SELECT minute, function, count(*) FILTER (WHERE what = 'started') AS started,
  count(*) FILTER (WHERE what = 'completed') AS completed,
  count(*) FILTER (WHERE what = 'failed') AS failed,
  count(*) FILTER (WHERE what = 'cancelled') AS cancelled
FROM moments GROUP BY minute, function ORDER BY minute, function;

-- waiting_now
SELECT run, function, kind, step, event_name AS target, started_at AS since, due_at FROM {waits}
WHERE status = 'waiting'
UNION ALL
SELECT run, function, 'signal', step, signal, started_at, due_at FROM {signals}
WHERE status = 'waiting'
UNION ALL
SELECT run, function, 'invocation', step, invoked, started_at, due_at FROM {invocations}
WHERE status = 'waiting'
UNION ALL
SELECT run, function, 'retry', step, error_message, ended_at, retry_at
FROM (SELECT *, row_number() OVER (PARTITION BY run, step ORDER BY attempt DESC) AS place
      FROM {attempts} a
      WHERE retry_at IS NOT NULL AND run IN (SELECT run FROM {runs} WHERE ended_at IS NULL))
WHERE place = 1 AND retry_at > {now};
