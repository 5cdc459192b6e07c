CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
  RETURN current_setting('request.jwt.claim.sub', true);

ALTER TABLE users ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON users USING (id = me());
ALTER TABLE teams ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_teams ON teams USING (true);
ALTER TABLE team_members ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON team_members USING (user_id = me());
ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON tasks USING (owner_id = me());
CREATE POLICY of_my_teams ON tasks FOR SELECT USING (team_id IN (SELECT team_id FROM team_members WHERE user_id = me()));

GRANT SELECT, INSERT, UPDATE, DELETE ON users, teams, team_members, tasks TO headwater_authenticated;
