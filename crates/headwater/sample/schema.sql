-- The sample: a small company's tools. Teams track issues, keep a directory of people, share albums
-- and tick off lists. Every surface of Headwater, its demo and its tests use this schema.
--
-- Users are not a table: who someone is comes from a token, whose `sub` is the text kept in columns
-- such as owner_id. Every table has a single-column key called id, which clients may choose.

CREATE TABLE organisations (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name        text NOT NULL,
    plan        text NOT NULL DEFAULT 'free' CHECK (plan IN ('free', 'team', 'company')),
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE members (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organisation_id  uuid NOT NULL REFERENCES organisations ON DELETE CASCADE,
    user_id          text NOT NULL,
    role             text NOT NULL DEFAULT 'member' CHECK (role IN ('admin', 'member', 'guest')),
    joined_at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organisation_id, user_id)
);
CREATE INDEX members_by_user ON members (user_id);

CREATE TABLE projects (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organisation_id  uuid NOT NULL REFERENCES organisations ON DELETE CASCADE,
    name             text NOT NULL,
    is_archived      boolean NOT NULL DEFAULT false,
    due_on           date,
    created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX projects_by_organisation ON projects (organisation_id);

CREATE TABLE issues (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id   uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    number       integer NOT NULL,
    title        text NOT NULL,
    description  text NOT NULL DEFAULT '',
    status       text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'started', 'review', 'done')),
    priority     smallint NOT NULL DEFAULT 2 CHECK (priority BETWEEN 0 AND 4),
    estimate     numeric(6, 2),
    fields       jsonb NOT NULL DEFAULT '{}',
    author_id    text NOT NULL,
    assignee_id  text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, number)
);
CREATE INDEX issues_by_assignee ON issues (assignee_id);

CREATE TABLE comments (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    issue_id    uuid NOT NULL REFERENCES issues ON DELETE CASCADE,
    author_id   text NOT NULL,
    body        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX comments_by_issue ON comments (issue_id);

CREATE TABLE labels (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organisation_id  uuid NOT NULL REFERENCES organisations ON DELETE CASCADE,
    name             text NOT NULL,
    colour           text NOT NULL DEFAULT '#888888',
    UNIQUE (organisation_id, name)
);

CREATE TABLE issue_labels (
    id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    issue_id  uuid NOT NULL REFERENCES issues ON DELETE CASCADE,
    label_id  uuid NOT NULL REFERENCES labels ON DELETE CASCADE,
    UNIQUE (issue_id, label_id)
);
CREATE INDEX issue_labels_by_label ON issue_labels (label_id);

CREATE TABLE companies (
    id       uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name     text NOT NULL,
    country  text NOT NULL,
    founded  integer
);

CREATE TABLE people (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    company_id  uuid REFERENCES companies ON DELETE SET NULL,
    user_id     text UNIQUE,
    name        text NOT NULL,
    email       text NOT NULL UNIQUE,
    born_on     date,
    tags        text[] NOT NULL DEFAULT '{}'
);
CREATE INDEX people_by_company ON people (company_id);

CREATE TABLE phone_numbers (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    person_id   uuid NOT NULL REFERENCES people ON DELETE CASCADE,
    kind        text NOT NULL DEFAULT 'work' CHECK (kind IN ('work', 'home', 'mobile')),
    number      text NOT NULL,
    is_private  boolean NOT NULL DEFAULT false
);
CREATE INDEX phone_numbers_by_person ON phone_numbers (person_id);

CREATE TABLE albums (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    owner_id    text NOT NULL,
    title       text NOT NULL,
    is_shared   boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX albums_by_owner ON albums (owner_id);

CREATE TABLE photos (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    album_id   uuid NOT NULL REFERENCES albums ON DELETE CASCADE,
    file_name  text NOT NULL,
    caption    text,
    width      integer NOT NULL,
    height     integer NOT NULL,
    bytes      bigint NOT NULL,
    latitude   double precision,
    longitude  double precision,
    taken_at   timestamp
);
CREATE INDEX photos_by_album ON photos (album_id);

CREATE TABLE lists (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    owner_id    text NOT NULL,
    name        text NOT NULL,
    is_public   boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX lists_by_owner ON lists (owner_id);

CREATE TABLE todos (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    list_id       uuid NOT NULL REFERENCES lists ON DELETE CASCADE,
    description   text NOT NULL,
    completed     boolean NOT NULL DEFAULT false,
    created_by    text,
    completed_by  text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    completed_at  timestamptz
);
CREATE INDEX todos_by_list ON todos (list_id);
