-- The rows of the sample. :scale stands for a whole number; 1 makes about 1,000 rows.
--
-- Every value is a function of the row's number i, so that the data is the same on every machine
-- and a larger scale only adds rows. Statements run in one session, in this order.

CREATE OR REPLACE FUNCTION pg_temp.sample_id(kind text, i bigint) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    RETURN md5(kind || ':' || i)::uuid;

CREATE OR REPLACE FUNCTION pg_temp.pick(i bigint, VARIADIC choices text[]) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN choices[1 + i % cardinality(choices)];

CREATE OR REPLACE FUNCTION pg_temp.sample_user(i bigint) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN coalesce((ARRAY['ada', 'ben', 'cleo', 'dara', 'emil', 'faye',
                           'gus', 'hana', 'ivo', 'june', 'kofi', 'lena'])[i], 'user-' || i);

CREATE OR REPLACE FUNCTION pg_temp.moment(minutes bigint) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE
    RETURN timestamptz '2026-01-05 08:00:00+00' + minutes * interval '1 minute';

INSERT INTO public.organisations (id, name, plan, created_at)
SELECT pg_temp.sample_id('organisation', i),
       pg_temp.pick(i, 'Northwind', 'Lumen', 'Harbour', 'Juniper', 'Basalt', 'Orchard', 'Quarry') || ' '
           || pg_temp.pick(i / 7, 'Works', 'Studio', 'Cooperative', 'Labs') || CASE WHEN i > 28 THEN ' ' || i ELSE '' END,
       pg_temp.pick(i, 'company', 'team', 'team', 'free'),
       pg_temp.moment(i * 7)
FROM generate_series(1::bigint, 4 * :scale) AS i;

-- Eight members each; neighbours overlap, and ada is a guest in two more.
INSERT INTO public.members (id, organisation_id, user_id, role, joined_at)
SELECT pg_temp.sample_id('member', i),
       pg_temp.sample_id('organisation', o),
       pg_temp.sample_user(CASE WHEN k = 7 AND o IN (2, 3) THEN 1 ELSE 5 * (o - 1) + k + 1 END),
       pg_temp.pick(k, 'admin', 'member', 'member', 'member', 'member', 'admin', 'member', 'guest'),
       pg_temp.moment(o * 7 + k)
FROM generate_series(1::bigint, 32 * :scale) AS i,
     LATERAL (SELECT 1 + (i - 1) / 8 AS o, (i - 1) % 8 AS k) AS place;

INSERT INTO public.projects (id, organisation_id, name, is_archived, due_on, created_at)
SELECT pg_temp.sample_id('project', i),
       pg_temp.sample_id('organisation', 1 + (i - 1) / 3),
       pg_temp.pick(i, 'Website', 'Mobile app', 'Billing', 'Onboarding', 'Search', 'Field guide') || ' '
           || pg_temp.pick(i / 6, 'relaunch', 'upkeep', 'pilot'),
       i % 11 = 0,
       CASE WHEN i % 3 <> 0 THEN date '2026-03-01' + (i % 200)::integer END,
       pg_temp.moment(i * 11)
FROM generate_series(1::bigint, 12 * :scale) AS i;

INSERT INTO public.labels (id, organisation_id, name, colour)
SELECT pg_temp.sample_id('label', i),
       pg_temp.sample_id('organisation', 1 + (i - 1) / 5),
       pg_temp.pick(i - 1, 'bug', 'idea', 'chore', 'urgent', 'waiting'),
       pg_temp.pick(i - 1, '#c0392b', '#2e86c1', '#7f8c8d', '#d35400', '#b7950b')
FROM generate_series(1::bigint, 20 * :scale) AS i;

INSERT INTO public.issues (id, project_id, number, title, description, status, priority, estimate,
                           fields, author_id, assignee_id, created_at, updated_at)
SELECT pg_temp.sample_id('issue', i),
       pg_temp.sample_id('project', p),
       1 + (i - 1) % 17,
       pg_temp.pick(i * 7, 'Fix', 'Review', 'Describe', 'Measure', 'Simplify', 'Test', 'Replace') || ' the '
           || pg_temp.pick(i * 5, 'sign-in', 'invoice', 'offline', 'export', 'search', 'settings', 'map', 'photo') || ' '
           || pg_temp.pick(i / 3, 'page', 'flow', 'message', 'job', 'form'),
       repeat('What happens, what should, and how to see it. ', (1 + i % 4)::integer),
       pg_temp.pick(i * 3, 'open', 'started', 'review', 'done', 'open', 'done', 'open'),
       (i * 3 % 5)::smallint,
       CASE WHEN i % 5 <> 0 THEN (i % 37) * 0.25 END,
       jsonb_build_object('browser', pg_temp.pick(i, 'firefox', 'chrome', 'safari'), 'votes', i % 23,
                          'seen', i % 2 = 0),
       pg_temp.sample_user(5 * (o - 1) + 1 + i % 7),
       CASE WHEN i % 4 <> 0 THEN pg_temp.sample_user(5 * (o - 1) + 1 + i * 3 % 7) END,
       pg_temp.moment(i * 13),
       pg_temp.moment(i * 13 + i % 5 * 600)
FROM generate_series(1::bigint, 204 * :scale) AS i,
     LATERAL (SELECT 1 + (i - 1) / 17 AS p, 1 + (i - 1) / 51 AS o) AS place;

INSERT INTO public.issue_labels (id, issue_id, label_id)
SELECT pg_temp.sample_id('issue_label', i),
       pg_temp.sample_id('issue', i),
       pg_temp.sample_id('label', 5 * ((i - 1) / 51) + 1 + i % 5)
FROM generate_series(1::bigint, 204 * :scale) AS i
WHERE i % 4 <> 0;

INSERT INTO public.comments (id, issue_id, author_id, body, created_at)
SELECT pg_temp.sample_id('comment', i),
       pg_temp.sample_id('issue', issue),
       pg_temp.sample_user(5 * ((issue - 1) / 51) + 1 + i % 8),
       pg_temp.pick(i * 3, 'I can reproduce this.', 'Works for me now, thank you!', 'Could you add a picture?',
                    'Moved to the next round.', 'Same here, on an older phone.') || ' (' || i || ')',
       pg_temp.moment(issue * 13 + i % 3 * 45)
FROM generate_series(1::bigint, 306 * :scale) AS i,
     LATERAL (SELECT 1 + (i - 1) * 2 / 3 AS issue) AS place;

INSERT INTO public.companies (id, name, country, founded)
SELECT pg_temp.sample_id('company', i),
       pg_temp.pick(i, 'Ørsted & Daughters', 'Kestrel Paper', 'Olivar', 'Blue Door', 'Tanaka Tools', 'Meridian')
           || CASE WHEN i > 6 THEN ' ' || i ELSE '' END,
       pg_temp.pick(i, 'DK', 'GB', 'ES', 'US', 'JP', 'PT'),
       CASE WHEN i % 5 <> 0 THEN (1900 + i * 17 % 120)::integer END
FROM generate_series(1::bigint, 8 * :scale) AS i;

-- Every second person has a login.
INSERT INTO public.people (id, company_id, user_id, name, email, born_on, tags)
SELECT pg_temp.sample_id('person', i),
       CASE WHEN i % 9 <> 0 THEN pg_temp.sample_id('company', 1 + (i - 1) / 5) END,
       CASE WHEN i % 2 = 1 THEN pg_temp.sample_user((i + 1) / 2) END,
       CASE WHEN i % 2 = 1 THEN initcap(pg_temp.sample_user((i + 1) / 2))
            ELSE pg_temp.pick(i / 2, 'Noor', 'Mateo', 'Yuki', 'Zoë', 'Priya', 'Lars') END || ' '
           || pg_temp.pick(i / 3, 'Berg', 'Okafor', 'Ríos', 'Sato', 'Novák', 'Ahmed', 'Moreau'),
       'person' || i || '@example.org',
       CASE WHEN i % 7 <> 0 THEN date '1960-01-01' + (i * 331 % 15000)::integer END,
       CASE WHEN i % 3 = 0 THEN ARRAY['newsletter', pg_temp.pick(i, 'press', 'partner')] ELSE '{}' END
FROM generate_series(1::bigint, 40 * :scale) AS i;

INSERT INTO public.phone_numbers (id, person_id, kind, number, is_private)
SELECT pg_temp.sample_id('phone_number', i),
       pg_temp.sample_id('person', 1 + (i - 1) * 2 / 3),
       pg_temp.pick(i, 'work', 'mobile', 'home'),
       '+1 555 ' || lpad((i % 10000000)::text, 7, '0'),
       i % 3 = 2
FROM generate_series(1::bigint, 60 * :scale) AS i;

INSERT INTO public.albums (id, owner_id, title, is_shared, created_at)
SELECT pg_temp.sample_id('album', i),
       pg_temp.sample_user(1 + (i - 1) * 5 / 3),
       pg_temp.pick(i, 'Summer', 'Workshop', 'Hike', 'New office', 'Birds') || ' ' || 2018 + i % 8,
       i % 4 = 2,
       pg_temp.moment(i * 17)
FROM generate_series(1::bigint, 12 * :scale) AS i;

INSERT INTO public.photos (id, album_id, file_name, caption, width, height, bytes, latitude, longitude, taken_at)
SELECT pg_temp.sample_id('photo', i),
       pg_temp.sample_id('album', 1 + (i - 1) / 6),
       'IMG_' || lpad(i::text, 6, '0') || '.jpg',
       CASE WHEN i % 3 = 0 THEN pg_temp.pick(i / 3, 'The view', 'All of us', 'Before', 'After', 'A visitor') END,
       CASE WHEN i % 5 = 0 THEN 3024 ELSE 4032 END,
       CASE WHEN i % 5 = 0 THEN 4032 ELSE 3024 END,
       1500000 + i * 7919 % 2500000,
       CASE WHEN i % 4 <> 0 THEN 37.5 + i % 100 * 0.125 END,
       CASE WHEN i % 4 <> 0 THEN -8.25 + i % 80 * 0.0625 END,
       timestamp '2025-06-01 10:00:00' + i * interval '37 minutes'
FROM generate_series(1::bigint, 72 * :scale) AS i;

-- The first list is ada's and public: the page of `headwater dev` shows it. Public lists reach every
-- client, so there are 300 at most: one client may have 1,000 buckets (limits.buckets_per_client).
INSERT INTO public.lists (id, owner_id, name, is_public, created_at)
SELECT pg_temp.sample_id('list', i),
       pg_temp.sample_user(1 + (i - 1) * 5 / 6),
       pg_temp.pick(i - 1, 'Groceries', 'This week', 'Camping', 'Repairs', 'Reading', 'Garden', 'Party', 'Errands'),
       i % 8 = 1 AND i <= 8 * 300,
       pg_temp.moment(i * 19)
FROM generate_series(1::bigint, 24 * :scale) AS i;

INSERT INTO public.todos (id, list_id, description, completed, created_by, completed_by, created_at, completed_at)
SELECT pg_temp.sample_id('todo', i),
       pg_temp.sample_id('list', l),
       CASE (l - 1) % 8
           WHEN 0 THEN pg_temp.pick(i - 1, 'Apples', 'Oat milk', 'Bread', 'Coffee', 'Olive oil', 'Lemons')
           WHEN 1 THEN pg_temp.pick(i - 1, 'Call the bank', 'Book the train', 'Send the slides', 'Plan the review', 'Water the plants', 'Pay the rent')
           WHEN 2 THEN pg_temp.pick(i - 1, 'Tent', 'Stove', 'Map', 'Torch', 'Rain jacket', 'First aid')
           ELSE pg_temp.pick(i, 'Ask', 'Buy', 'Fix', 'Measure', 'Return', 'Sort', 'Write down') || ' '
                || pg_temp.pick(i / 6, 'the lamp', 'the books', 'seeds', 'a present', 'the bike', 'tickets')
       END,
       done,
       pg_temp.sample_user(1 + (l - 1) * 5 / 6),
       CASE WHEN done THEN pg_temp.sample_user(1 + (l - 1) * 5 / 6) END,
       pg_temp.moment(l * 19 + i % 6),
       CASE WHEN done THEN pg_temp.moment(l * 19 + 1440 + i % 6) END
FROM generate_series(1::bigint, 144 * :scale) AS i,
     LATERAL (SELECT 1 + (i - 1) / 6 AS l, i % 3 = 0 AS done) AS place;
