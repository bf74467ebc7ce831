-- The tables of a judgement store, version 1. Rows are added and never changed; the triggers below hold everyone to that.

-- What a server answered, by the SHA-256 of what it was asked.
CREATE TABLE replies (
  id INTEGER PRIMARY KEY,
  key BLOB NOT NULL UNIQUE CHECK (length(key) = 32),
  model TEXT NOT NULL,
  answer TEXT NOT NULL,          -- JSON
  n_retries INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  cached_prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  cost_usd REAL,                 -- null: unknown
  time_secs REAL,
  date INTEGER NOT NULL          -- seconds since 1970, UTC
) STRICT;

-- Questions without an answer; one that was asked again has several.
CREATE TABLE reply_failures (
  id INTEGER PRIMARY KEY,
  key BLOB NOT NULL CHECK (length(key) = 32),
  model TEXT NOT NULL,
  kind TEXT NOT NULL,
  message TEXT NOT NULL,
  may_pass INTEGER NOT NULL,
  n_retries INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  cached_prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  cost_usd REAL,
  time_secs REAL,
  date INTEGER NOT NULL
) STRICT;
CREATE INDEX reply_failures_by_key ON reply_failures (key, id);

CREATE TRIGGER replies_stay BEFORE UPDATE ON replies BEGIN SELECT raise(ABORT, 'a kept reply is never changed'); END;
CREATE TRIGGER replies_remain BEFORE DELETE ON replies BEGIN SELECT raise(ABORT, 'a kept reply is never removed'); END;
CREATE TRIGGER reply_failures_stay BEFORE UPDATE ON reply_failures BEGIN SELECT raise(ABORT, 'a kept failure is never changed'); END;
CREATE TRIGGER reply_failures_remain BEFORE DELETE ON reply_failures BEGIN SELECT raise(ABORT, 'a kept failure is never removed'); END;
