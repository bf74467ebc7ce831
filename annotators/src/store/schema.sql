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

-- What was judged, who judged: each text once.
CREATE TABLE comparisons (
  id INTEGER PRIMARY KEY,
  key BLOB NOT NULL UNIQUE CHECK (length(key) = 32),
  comparison TEXT NOT NULL       -- JSON
) STRICT;
CREATE TABLE judges (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  identity TEXT NOT NULL,        -- all that a verdict depends on besides comparison and seed
  UNIQUE (name, identity)
) STRICT;

-- Verdicts, by the SHA-256 of comparison, judge and seed.
CREATE TABLE verdicts (
  id INTEGER PRIMARY KEY,
  key BLOB NOT NULL UNIQUE CHECK (length(key) = 32),
  comparison INTEGER NOT NULL REFERENCES comparisons (id),
  judge INTEGER NOT NULL REFERENCES judges (id),
  seed TEXT NOT NULL,
  annotator TEXT NOT NULL,       -- who judged, as results show it: a pool's member
  preference REAL NOT NULL,      -- 1 first, 2 second, 1.5 tie
  shown TEXT NOT NULL,           -- as_given or swapped
  noised INTEGER NOT NULL,
  cost_usd REAL,
  time_secs REAL,
  date INTEGER NOT NULL,
  annotation TEXT NOT NULL,      -- JSON, with the raw answer
  imported TEXT                  -- JSON: columns of an imported record without a meaning here
) STRICT;

-- Comparisons without a verdict; one that was judged again has several.
CREATE TABLE verdict_failures (
  id INTEGER PRIMARY KEY,
  key BLOB NOT NULL CHECK (length(key) = 32),
  comparison INTEGER NOT NULL REFERENCES comparisons (id),
  judge INTEGER NOT NULL REFERENCES judges (id),
  seed TEXT NOT NULL,
  annotator TEXT NOT NULL,
  kind TEXT NOT NULL,
  may_pass INTEGER NOT NULL,
  cost_usd REAL,
  time_secs REAL,
  date INTEGER NOT NULL,
  failure TEXT NOT NULL,         -- JSON, with the raw answer
  imported TEXT
) STRICT;
CREATE INDEX verdict_failures_by_key ON verdict_failures (key, id);

CREATE TRIGGER replies_stay BEFORE UPDATE ON replies BEGIN SELECT raise(ABORT, 'a row of a judgement store is never changed'); END;
CREATE TRIGGER replies_remain BEFORE DELETE ON replies BEGIN SELECT raise(ABORT, 'a row of a judgement store is never removed'); END;
CREATE TRIGGER reply_failures_stay BEFORE UPDATE ON reply_failures BEGIN SELECT raise(ABORT, 'a row of a judgement store is never changed'); END;
CREATE TRIGGER reply_failures_remain BEFORE DELETE ON reply_failures BEGIN SELECT raise(ABORT, 'a row of a judgement store is never removed'); END;
CREATE TRIGGER comparisons_stay BEFORE UPDATE ON comparisons BEGIN SELECT raise(ABORT, 'a row of a judgement store is never changed'); END;
CREATE TRIGGER comparisons_remain BEFORE DELETE ON comparisons BEGIN SELECT raise(ABORT, 'a row of a judgement store is never removed'); END;
CREATE TRIGGER judges_stay BEFORE UPDATE ON judges BEGIN SELECT raise(ABORT, 'a row of a judgement store is never changed'); END;
CREATE TRIGGER judges_remain BEFORE DELETE ON judges BEGIN SELECT raise(ABORT, 'a row of a judgement store is never removed'); END;
CREATE TRIGGER verdicts_stay BEFORE UPDATE ON verdicts BEGIN SELECT raise(ABORT, 'a row of a judgement store is never changed'); END;
CREATE TRIGGER verdicts_remain BEFORE DELETE ON verdicts BEGIN SELECT raise(ABORT, 'a row of a judgement store is never removed'); END;
CREATE TRIGGER verdict_failures_stay BEFORE UPDATE ON verdict_failures BEGIN SELECT raise(ABORT, 'a row of a judgement store is never changed'); END;
CREATE TRIGGER verdict_failures_remain BEFORE DELETE ON verdict_failures BEGIN SELECT raise(ABORT, 'a row of a judgement store is never removed'); END;
