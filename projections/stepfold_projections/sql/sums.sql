-- of_rows
SELECT function, step, CAST(round(ln(greatest(duration_ms, 1)) * 20) AS SMALLINT) AS bucket,
  count(*) AS steps, max(duration_ms) AS max_ms, sum(duration_ms) AS total_ms,
  count(*) FILTER (WHERE done) AS tried, count(*) FILTER (WHERE done AND attempts > 1) AS retried,
  count(*) FILTER (WHERE done AND status = 'failed') AS failed,
  sum(attempts) FILTER (WHERE done) AS attempts
FROM (SELECT function, step, status, attempts, duration_ms,
        status IN ('completed', 'failed') AS done FROM {steps})
GROUP BY ALL;

-- of_sums
SELECT function, step, bucket, sum(steps) AS steps, max(max_ms) AS max_ms,
  sum(total_ms) AS total_ms, sum(tried) AS tried, sum(retried) AS retried, sum(failed) AS failed,
  sum(attempts) AS attempts
FROM past.step_sums GROUP BY ALL;

-- with_open
SELECT * FROM past.step_sums UNION ALL {open_steps};

-- open_steps
SELECT r.function, s.name AS step, s.status, s.attempts,
  date_diff('millisecond', s.started_at, s.ended_at) AS duration_ms
FROM open.operations s JOIN open.runs r ON r.run = s.run
WHERE s.kind = 'step' AND s.ended_at IS NOT NULL;

-- failed
SELECT function, step, error_name, error_message, {shape} AS shape, run, ended_at FROM {steps}
WHERE status = 'failed'
UNION ALL
SELECT function, '', error_name, error_message, {shape}, run, ended_at FROM {runs}
WHERE status = 'failed' AND error_name <> 'StepError';

-- open_failed
SELECT r.function, s.name, s.error_name, error_message, {shape}, s.run, s.ended_at
FROM (SELECT * FROM open.operations WHERE kind = 'step' AND status = 'failed') s
JOIN open.runs r ON r.run = s.run
