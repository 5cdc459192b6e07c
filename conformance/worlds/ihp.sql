-- The tables of an IHP application, as its Schema.sql and its start make them: the user's id in a
-- setting, a role that has everything in the schema, policies per user. `ihp_user_id()` raises where
-- the setting was never set, as it does in applications.

CREATE TABLE beacon (id text PRIMARY KEY, n int8 NOT NULL);

CREATE FUNCTION ihp_user_id() RETURNS UUID AS $$
    SELECT NULLIF(current_setting('rls.ihp_user_id'), '')::uuid;
$$ LANGUAGE SQL;

CREATE TYPE task_status AS ENUM ('todo', 'doing', 'done');

CREATE TABLE users (
    id UUID DEFAULT gen_random_uuid() PRIMARY KEY NOT NULL,
    email TEXT NOT NULL,
    password_hash TEXT NOT NULL
);
CREATE TABLE projects (
    id UUID DEFAULT gen_random_uuid() PRIMARY KEY NOT NULL,
    user_id UUID DEFAULT ihp_user_id() NOT NULL,
    name TEXT NOT NULL
);
CREATE TABLE project_members (
    id UUID DEFAULT gen_random_uuid() PRIMARY KEY NOT NULL,
    project_id UUID NOT NULL,
    user_id UUID NOT NULL
);
CREATE TABLE tasks (
    id UUID DEFAULT gen_random_uuid() PRIMARY KEY NOT NULL,
    user_id UUID DEFAULT ihp_user_id() NOT NULL,
    project_id UUID DEFAULT NULL,
    title TEXT NOT NULL CONSTRAINT title_is_not_empty CHECK (title <> ''),
    body TEXT DEFAULT '' NOT NULL,
    type task_status DEFAULT 'todo' NOT NULL,
    position INT DEFAULT NULL,
    price DOUBLE PRECISION DEFAULT NULL,
    is_completed BOOLEAN DEFAULT false NOT NULL,
    tags TEXT[] DEFAULT '{}' NOT NULL,
    settings JSONB DEFAULT NULL,
    due_at TIMESTAMP WITH TIME ZONE DEFAULT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW() NOT NULL
);
CREATE TABLE pages (
    id UUID DEFAULT gen_random_uuid() PRIMARY KEY NOT NULL,
    user_id UUID DEFAULT ihp_user_id() NOT NULL,
    title TEXT NOT NULL,
    ts TSVECTOR GENERATED ALWAYS AS (to_tsvector('english', title)) STORED
);
ALTER TABLE project_members ADD CONSTRAINT project_members_ref_project_id FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE CASCADE;
ALTER TABLE tasks ADD CONSTRAINT tasks_ref_project_id FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE CASCADE;

ALTER TABLE projects ENABLE ROW LEVEL SECURITY;
ALTER TABLE project_members ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;
ALTER TABLE pages ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Users can manage their projects" ON projects USING (user_id = ihp_user_id()) WITH CHECK (user_id = ihp_user_id());
CREATE POLICY "Users can see their memberships" ON project_members USING (user_id = ihp_user_id());
CREATE POLICY "Users can manage their tasks" ON tasks USING (user_id = ihp_user_id()) WITH CHECK (user_id = ihp_user_id());
CREATE POLICY "Members can see tasks" ON tasks FOR SELECT USING (EXISTS (SELECT 1 FROM project_members WHERE project_members.project_id = tasks.project_id AND project_members.user_id = ihp_user_id()));
CREATE POLICY "Users can manage their pages" ON pages USING (user_id = ihp_user_id()) WITH CHECK (user_id = ihp_user_id());

CREATE ROLE ihp_authenticated NOLOGIN;
GRANT USAGE ON SCHEMA public TO ihp_authenticated;
GRANT ALL PRIVILEGES ON ALL TABLES IN SCHEMA public TO ihp_authenticated;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL PRIVILEGES ON TABLES TO ihp_authenticated;
