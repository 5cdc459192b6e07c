-- Who may see what, when policies are what is synced: by owner, by membership, by a claim, everybody.

CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
  RETURN current_setting('request.jwt.claim.sub', true);
CREATE FUNCTION claim(name text) RETURNS text LANGUAGE sql STABLE
  RETURN current_setting('request.jwt.claims', true)::json ->> name;

ALTER TABLE beacon ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON beacon USING (true);
ALTER TABLE list_members ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON list_members USING (user_id = me());
ALTER TABLE lists ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON lists USING (owner_id = me());
CREATE POLICY shared ON lists FOR SELECT
  USING (id IN (SELECT list_id FROM list_members WHERE user_id = me()));
ALTER TABLE todos ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_lists ON todos USING (EXISTS (SELECT FROM lists WHERE lists.id = todos.list_id));
ALTER TABLE news ENABLE ROW LEVEL SECURITY;
CREATE POLICY region ON news USING (region = claim('region') AND tier <= 2);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;

GRANT SELECT, INSERT, UPDATE, DELETE ON beacon, list_members, lists, todos, news, notes
  TO headwater_authenticated;
