-- Who may write what. The role comes from `headwater setup`.

CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
  RETURN current_setting('request.jwt.claim.sub', true);

ALTER TABLE lists ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON lists USING (owner_id = me());
ALTER TABLE todos ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON todos USING (list_id IN (SELECT id FROM lists WHERE owner_id = me()));
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON notes USING (owner_id = me());
ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON documents USING (owner_id = me());
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON events USING (user_id = me());

GRANT SELECT, INSERT, UPDATE, DELETE ON lists, todos, notes, documents, events TO headwater_authenticated;
