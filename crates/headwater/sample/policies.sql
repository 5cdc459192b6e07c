-- Who may see and change what, in the shapes that projects use: a row's owner, membership through a
-- table, the parent row's visibility, a role claim of the token, a helper function, a restriction.
--
-- Headwater acts in Postgres as the role headwater_authenticated with the token's claims in the
-- setting request.jwt.claims, as PostgREST does.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'headwater_authenticated') THEN
        CREATE ROLE headwater_authenticated NOLOGIN;
    END IF;
END
$$;

CREATE SCHEMA app;

-- The user of the token, or NULL without one.
CREATE FUNCTION app.user_id() RETURNS text
    LANGUAGE sql STABLE
    RETURN nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub';

-- The role that whoever issued the token gave to the user, for example staff.
CREATE FUNCTION app.user_role() RETURNS text
    LANGUAGE sql STABLE
    RETURN nullif(current_setting('request.jwt.claims', true), '')::jsonb
           -> 'app_metadata' ->> 'role';

-- Runs as its owner, because the policies of members would ask this very function again.
CREATE FUNCTION app.is_member(organisation uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = ''
    AS $$
        SELECT EXISTS (
            SELECT FROM public.members
            WHERE organisation_id = organisation AND user_id = app.user_id()
        )
    $$;

CREATE FUNCTION app.is_admin(organisation uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = ''
    AS $$
        SELECT EXISTS (
            SELECT FROM public.members
            WHERE organisation_id = organisation AND user_id = app.user_id() AND role = 'admin'
        )
    $$;

GRANT USAGE ON SCHEMA public, app TO headwater_authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    organisations, members, projects, issues, comments, labels, issue_labels,
    companies, people, phone_numbers, albums, photos, lists, todos
    TO headwater_authenticated;

ALTER TABLE organisations ENABLE ROW LEVEL SECURITY;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE projects ENABLE ROW LEVEL SECURITY;
ALTER TABLE issues ENABLE ROW LEVEL SECURITY;
ALTER TABLE comments ENABLE ROW LEVEL SECURITY;
ALTER TABLE labels ENABLE ROW LEVEL SECURITY;
ALTER TABLE issue_labels ENABLE ROW LEVEL SECURITY;
ALTER TABLE companies ENABLE ROW LEVEL SECURITY;
ALTER TABLE people ENABLE ROW LEVEL SECURITY;
ALTER TABLE phone_numbers ENABLE ROW LEVEL SECURITY;
ALTER TABLE albums ENABLE ROW LEVEL SECURITY;
ALTER TABLE photos ENABLE ROW LEVEL SECURITY;
ALTER TABLE lists ENABLE ROW LEVEL SECURITY;
ALTER TABLE todos ENABLE ROW LEVEL SECURITY;

-- A helper function.
CREATE POLICY read_own ON organisations FOR SELECT TO headwater_authenticated
    USING (app.is_member(id));
CREATE POLICY change_as_admin ON organisations FOR UPDATE TO headwater_authenticated
    USING (app.is_admin(id));

CREATE POLICY read_fellows ON members FOR SELECT TO headwater_authenticated
    USING (user_id = app.user_id() OR app.is_member(organisation_id));
CREATE POLICY manage_as_admin ON members TO headwater_authenticated
    USING (app.is_admin(organisation_id))
    WITH CHECK (app.is_admin(organisation_id));

-- Membership through a table.
CREATE POLICY read_as_member ON projects FOR SELECT TO headwater_authenticated
    USING (organisation_id IN (SELECT m.organisation_id FROM members AS m WHERE m.user_id = app.user_id()));
CREATE POLICY manage_as_admin ON projects TO headwater_authenticated
    USING (app.is_admin(organisation_id))
    WITH CHECK (app.is_admin(organisation_id));

CREATE POLICY use_as_member ON labels TO headwater_authenticated
    USING (EXISTS (
        SELECT FROM members AS m
        WHERE m.organisation_id = labels.organisation_id AND m.user_id = app.user_id()
    ));

-- The parent row: who sees the project sees its issues. Guests read only.
CREATE POLICY read_with_project ON issues FOR SELECT TO headwater_authenticated
    USING (EXISTS (SELECT FROM projects AS p WHERE p.id = issues.project_id));
CREATE POLICY write_as_member ON issues TO headwater_authenticated
    USING (EXISTS (
        SELECT FROM projects AS p
        JOIN members AS m ON m.organisation_id = p.organisation_id
        WHERE p.id = issues.project_id AND m.user_id = app.user_id() AND m.role IN ('admin', 'member')
    ));

CREATE POLICY read_with_issue ON comments FOR SELECT TO headwater_authenticated
    USING (issue_id IN (SELECT i.id FROM issues AS i));
CREATE POLICY write_own ON comments TO headwater_authenticated
    USING (author_id = app.user_id() AND issue_id IN (SELECT i.id FROM issues AS i));

CREATE POLICY use_with_issue ON issue_labels TO headwater_authenticated
    USING (EXISTS (SELECT FROM issues AS i WHERE i.id = issue_labels.issue_id));

-- A constant, and a role claim.
CREATE POLICY read_all ON companies FOR SELECT TO headwater_authenticated USING (true);
CREATE POLICY manage_as_staff ON companies TO headwater_authenticated
    USING (app.user_role() = 'staff');

CREATE POLICY read_self_or_as_staff ON people FOR SELECT TO headwater_authenticated
    USING (user_id = app.user_id() OR app.user_role() IN ('staff', 'support'));
CREATE POLICY manage_as_staff ON people TO headwater_authenticated
    USING (app.user_role() = 'staff');

-- A restriction on top: private numbers are for their person and for staff.
CREATE POLICY read_with_person ON phone_numbers FOR SELECT TO headwater_authenticated
    USING (EXISTS (SELECT FROM people AS p WHERE p.id = phone_numbers.person_id));
CREATE POLICY hide_private ON phone_numbers AS RESTRICTIVE TO headwater_authenticated
    USING (
        NOT is_private
        OR app.user_role() = 'staff'
        OR EXISTS (
            SELECT FROM people AS p WHERE p.id = phone_numbers.person_id AND p.user_id = app.user_id()
        )
    );
CREATE POLICY manage_own ON phone_numbers TO headwater_authenticated
    USING (person_id IN (SELECT p.id FROM people AS p WHERE p.user_id = app.user_id()));

-- The owner, or everybody once it is shared.
CREATE POLICY read_own_or_shared ON albums FOR SELECT TO headwater_authenticated
    USING (owner_id = app.user_id() OR is_shared);
CREATE POLICY write_own ON albums TO headwater_authenticated
    USING (owner_id = app.user_id());

CREATE POLICY read_with_album ON photos FOR SELECT TO headwater_authenticated
    USING (EXISTS (SELECT FROM albums AS a WHERE a.id = photos.album_id));
CREATE POLICY write_own ON photos TO headwater_authenticated
    USING (EXISTS (SELECT FROM albums AS a WHERE a.id = photos.album_id AND a.owner_id = app.user_id()));

CREATE POLICY read_own_or_public ON lists FOR SELECT TO headwater_authenticated
    USING (owner_id = app.user_id() OR is_public);
CREATE POLICY write_own ON lists TO headwater_authenticated
    USING (owner_id = app.user_id());

CREATE POLICY read_with_list ON todos FOR SELECT TO headwater_authenticated
    USING (list_id IN (SELECT l.id FROM lists AS l WHERE l.owner_id = app.user_id() OR l.is_public));
CREATE POLICY write_in_own_list ON todos TO headwater_authenticated
    USING (list_id IN (SELECT l.id FROM lists AS l WHERE l.owner_id = app.user_id()));
