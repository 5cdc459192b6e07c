-- The tables of live queries: every kind of order, and access by owner and by membership.

CREATE TABLE beacon (id text PRIMARY KEY, n int8 NOT NULL);

CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL);

CREATE TYPE mood AS ENUM ('open', 'doing', 'done', 'dropped');

CREATE TABLE teams (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL);

CREATE TABLE team_members (team_id uuid NOT NULL REFERENCES teams, user_id text NOT NULL, PRIMARY KEY (team_id, user_id));

CREATE TABLE tasks (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  owner_id text NOT NULL DEFAULT current_setting('request.jwt.claim.sub', true),
  team_id uuid REFERENCES teams,
  title text COLLATE "en-x-icu" NOT NULL CONSTRAINT title_is_not_empty CHECK (title <> ''),
  mood mood NOT NULL DEFAULT 'open',
  n int4,
  price numeric,
  tags text[] NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now()
);
