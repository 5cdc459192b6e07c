-- The tables of the suite: small, with every shape of access that its streams need.

CREATE TABLE beacon (id text PRIMARY KEY, n int8 NOT NULL);

CREATE TABLE lists (
  id text PRIMARY KEY,
  owner_id text NOT NULL,
  name text NOT NULL CONSTRAINT name_is_not_empty CHECK (name <> ''),
  is_public boolean NOT NULL DEFAULT false
);

CREATE TABLE list_members (
  id text PRIMARY KEY,
  list_id text NOT NULL,
  user_id text NOT NULL
);

CREATE TABLE todos (
  id text PRIMARY KEY,
  list_id text NOT NULL,
  title text NOT NULL CONSTRAINT title_is_not_empty CHECK (title <> ''),
  done boolean NOT NULL DEFAULT false,
  n int8
);

CREATE TABLE news (id text PRIMARY KEY, region text NOT NULL, tier int4 NOT NULL, body text);

CREATE TABLE notes (id text PRIMARY KEY, owner_id text NOT NULL, body text, score float8);

CREATE TABLE documents (id text PRIMARY KEY, owner_id text NOT NULL, title text, body text);

-- Clients only write here; nothing of it is synced.
CREATE TABLE events (id text PRIMARY KEY, user_id text NOT NULL, kind text NOT NULL);
