-- Policies that could be taken for something else than they are to Postgres: names that a search path
-- resolves otherwise, functions with the rights and paths of others, forms of SQL that look like another one,
-- values that Postgres reads as it does not print them. Each group stands by itself.
create role app nologin; create role own nologin;
create schema auth; grant usage on schema auth to app;
create function auth.uid() returns uuid language sql stable as $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
-- 1 ALL with only WITH CHECK
create table wc(id int, a int); insert into wc values (1,1);
alter table wc enable row level security; create policy p on wc with check (a = 1); grant select on wc to app;
create table wc0(id int, a int); insert into wc0 values (1,1);
alter table wc0 enable row level security; create policy p on wc0; grant select on wc0 to app;
-- 2 composite
create type comp as (x int, y int);
create table co(id int, c comp); insert into co values (1,row(null,1)),(2,row(1,1)),(3,row(null,null)),(4,null);
alter table co enable row level security; create policy p on co using (c is not null); grant select on co to app;
-- 3 plpgsql ambiguous
create table m(id int, who uuid, team int); insert into m values (1,'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',7); grant select on m to app;
create table d(id int, team int, owner uuid); insert into d values (1,7,null),(2,8,'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'); grant select on d to app;
create function in_team(team int) returns bool language plpgsql stable as $$ begin return exists (select 1 from m where m.team = team and who = auth.uid()); end $$;
alter table d enable row level security; create policy p on d using (in_team(team));
-- 4 distinct from
create table x(id int, deleted bool, owner uuid); insert into x values (1,true,'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');grant select on x to app;
create function ok(del bool, own uuid) returns bool language sql stable as $$ select del is distinct from true and own = auth.uid() $$;
alter table x enable row level security; create policy p on x using (ok(deleted, owner));
-- 5 execute
create table ex(id int); insert into ex values (1); grant select on ex to app; alter table ex enable row level security;
create function yes() returns bool language sql stable as 'select true'; revoke execute on function yes() from public;
create policy p on ex using (yes());
-- 6 json dup
create table jd(id int, j json); insert into jd values (1,'{"a":{"b":"secret"},"a":{"c":2}}'); grant select on jd to app; alter table jd enable row level security;
create policy p on jd using ((j #>> '{a,b}') is null);
-- view shadows table through the path
create schema api; grant usage on schema api, public to app;
create table public.mem(id int, who uuid, team int, active bool); insert into mem values (1,'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',7,false);
create view api.mem as select * from public.mem where active; grant select on public.mem, api.mem to app;
create table s1(id int, team int); insert into s1 values (1,7); grant select on s1 to app; alter table s1 enable row level security;
create function member_of(t int) returns bool language sql stable set search_path = api, public as $$ select exists(select 1 from mem where mem.team = t and who = auth.uid()) $$;
create policy p on s1 using (member_of(team));
-- SECURITY DEFINER, "$user"
create schema own authorization own;
create table own.mm(id int, who uuid, team int);  alter table own.mm owner to own;
create table public.mm(id int, who uuid, team int); insert into public.mm values (1,'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',7); grant select on public.mm to app, own;
create function member2(t int) returns bool language sql stable security definer as $$ select exists(select 1 from mm where mm.team = t and who = auth.uid()) $$;
alter function member2 owner to own; grant usage on schema auth to own;
create table s2(id int, team int); insert into s2 values (1,7); grant select on s2 to app; alter table s2 enable row level security;
create policy p on s2 using (member2(team));
-- argument with sub-select into body with sub-select
create table prof(id int, who uuid, team int); insert into prof values (1,'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',8); grant select on prof to app;
create function in_t(t int) returns bool language sql stable as $$ select exists(select 1 from m where m.team = $1) $$;
create table s3(id int, team int); insert into s3 values (1,7); grant select on s3 to app; alter table s3 enable row level security;
create policy p on s3 using (in_t((select p.team from prof p where p.who = auth.uid())));
-- no usage on schema in path
create schema priv; create function priv.f(int) returns bool language sql as 'select true'; create function public.f(int) returns bool language sql as 'select false';
create function callf(i int) returns bool language sql stable set search_path = priv, public as 'select f(i)';
create table s4(id int); insert into s4 values (1); grant select on s4 to app; alter table s4 enable row level security; create policy p on s4 using (callf(id));
-- pg_catalog last
create function api.length(text) returns int language sql as 'select 99';
create function lenok(t text) returns bool language sql stable set search_path = api, pg_catalog as 'select length(t) < 50';
create table s5(id int, t text); insert into s5 values (1,'a'); grant select on s5 to app; alter table s5 enable row level security; create policy p on s5 using (lenok(t));
-- varchar overload
create function public.starts_with(varchar, varchar) returns bool language sql as 'select false';
create function sw(v varchar) returns bool language sql stable as $$ select starts_with(v, v) $$;
create table s6(id int, v varchar); insert into s6 values (1,'a'); grant select on s6 to app; alter table s6 enable row level security; create policy p on s6 using (sw(v));
-- column grant
create table s7(id int, secret int); insert into s7 values (1,2); grant select (id) on s7 to app;
-- whole row param
create function wr(mem text) returns bool language sql stable as $$ select exists(select 1 from m where team = 7 and m is not null) $$;
-- domain check/ enum label
create type mood as enum ('ok','bad');
create table s8(id int, e mood); insert into s8 values (1,'ok'); grant select on s8 to app; alter table s8 enable row level security;
create function notold(e mood) returns bool language plpgsql stable as $$ begin return e <> 'old'; end $$;
create policy p on s8 using (notold(e));
-- name truncation
create table s9(id int, a text, b text); insert into s9 values (1,repeat('x',63)||'a',repeat('x',63)||'b'); grant select on s9 to app; alter table s9 enable row level security;
create policy p on s9 using (a::name <> b::name);
-- exponential
create table s10(id int, a text); insert into s10 values(1,'x'); grant select on s10 to app; alter table s10 enable row level security;
create function dbl(a text) returns text language sql immutable as $$ select a || a $$;
do $$ declare e text := 'a'; begin for i in 1..40 loop e := 'dbl(' || e || ')'; end loop; execute 'create policy p on s10 using (' || e || ' = ''x'')'; end $$;
-- duplicate keys, whitespace in path
create table t1(id int, s text); insert into t1 values (1,'deleted'); grant select on t1 to app; alter table t1 enable row level security;
create function vis(s text) returns bool language sql immutable as $$ select s <> all ('{banned, deleted}') $$;
create policy p on t1 using (vis(s));
create table t3(id int, s text); insert into t3 values (1,'{"y": 2, "x": 1}'); grant select on t3 to app; alter table t3 enable row level security;
create function js(s text) returns bool language sql immutable as $$ select s <> ('{"a":{"y":2,"x":1}}'::jsonb ->> 'a') and s = '{"y": 2, "x": 1}' $$;
create policy p on t3 using (js(s));
-- generated column
create table t4(id int primary key, email text, email_lower text generated always as (lower(email)) stored); grant select on t4 to app; alter table t4 enable row level security;
create policy p on t4 using (email_lower = 'a');
-- composite tests more
create table t5(id int, c comp); insert into t5 values (1,row(null,null)); grant select on t5 to app; alter table t5 enable row level security;
create policy p on t5 using (not (c is null));
create domain dcomp as comp; create table t6(id int, c dcomp); insert into t6 values (1,row(null,1)::comp); grant select on t6 to app; alter table t6 enable row level security; create policy p on t6 using (c is not null);
-- json path " 1"
create table t7(id int, j json); insert into t7 values (1,'[1,2]'),(2,'{"a":"\u0000"}'); grant select on t7 to app; alter table t7 enable row level security; create policy p on t7 using ((j #>> '{" 1"}') is null);
-- EXISTS with SRF / aggregate
create table bl(id int, who uuid); grant select on bl to app;
create table mt(id int, who uuid, teams int[]); insert into mt values (1,'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11','{}'); grant select on mt to app;
create table e1(id int); insert into e1 values (1); grant select on e1 to app; alter table e1 enable row level security;
create policy p on e1 using (not exists (select count(*) from bl where bl.who = auth.uid()));
create table e2(id int); insert into e2 values (1); grant select on e2 to app; alter table e2 enable row level security;
create policy p on e2 using (exists (select unnest(mt.teams) from mt where mt.who = auth.uid()));
-- partition parent / inheritance shadow and listing
create table par(id int, who uuid); create table chi() inherits (par); insert into par values(1); alter table par enable row level security; grant select on par to app; create policy p on par using (lower('A') = 'a');
-- jsonb literal in body
create table j1(id int, s text); insert into j1 values (1,'{"x": 1, "y": 2}'); grant select on j1 to app; alter table j1 enable row level security;
create function js2(s text) returns bool language sql immutable as $$ select s <> ('{"a":{"y":2,"x":1}}'::jsonb ->> 'a') $$;
create policy p on j1 using (js2(s));
-- domain with check result
create domain pos as int check (value > 0);
create function mk(i int) returns pos language plpgsql immutable as $$ begin return i; end $$;
create table dm(id int, i int); insert into dm values (1,-5); grant select on dm to app; alter table dm enable row level security;
create policy p on dm using (mk(i) < 10);
-- char(1) cast
create table ch(id int, s text); insert into ch values (1,'ab'); grant select on ch to app; alter table ch enable row level security;
create policy p on ch using (s::char = 'a' or s::"char" = 'b'::"char");
-- trailing-space bpchar->varchar? interval
create table iv(id int, d interval); insert into iv values (1,'-1 days +01:00'); grant select on iv to app; alter table iv enable row level security;
-- uuid text compare
create function up(u uuid, s text) returns bool language sql immutable as $$ select u::text = s $$;
-- table in other schema via temp
create table o1(id int, b bool); grant select on o1 to app; alter table o1 enable row level security;
do $$ begin execute 'create policy p on o1 using (' || (select string_agg('b',' or ') from generate_series(1,9900)) || ')'; end $$;
create table o2(id int, i int); grant select on o2 to app; alter table o2 enable row level security;
do $$ begin execute 'create function inl(i int) returns bool language sql immutable as $f$ select i in (' || (select string_agg(g::text,',') from generate_series(1,9000) g) || ') $f$'; end $$;
create policy p on o2 using (inl(i));
create table o3(id int, i int); grant select on o3 to app; alter table o3 enable row level security;
do $$ begin execute 'create policy p on o3 using ((' || (select string_agg('i',' + ') from generate_series(1,3000)) || ') > 0)'; end $$;
-- pg_catalog shadows public
create function public.reverse(text) returns text language sql immutable as 'select $1';
create function revp(a text) returns bool language sql immutable as $$ select reverse(a) = 'ab' $$;
create table n1(id int, a text); insert into n1 values (1,'ab'); grant select on n1 to app; alter table n1 enable row level security; create policy p on n1 using (revp(a));
-- user operator
create function public.never(varchar,varchar) returns bool language sql immutable as 'select false';
create operator public.= (leftarg=varchar, rightarg=varchar, function=public.never);
create function eqv(a varchar, b varchar) returns bool language sql immutable as $$ select a = b $$;
create table n2(id int, a varchar); insert into n2 values (1,'ab'); grant select on n2 to app; alter table n2 enable row level security; create policy p on n2 using (eqv(a,a));
-- whole row vs param
create table note(id int, txt text); insert into note values (1,null); grant select on note to app;
create function wr2(note text) returns bool language sql stable as $$ select exists(select 1 from note where note is not null) $$;
create table n3(id int, a text); insert into n3 values (1,'x'); grant select on n3 to app; alter table n3 enable row level security; create policy p on n3 using (wr2(a));
-- no policy etc
create table big(id int);
create schema p2; grant usage on schema p2 to app;
create table public.mm2(id int, who uuid, team int); insert into public.mm2 values (1,'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',7);
create table p2.mm2(id int, who uuid, team int); grant select on p2.mm2, public.mm2 to app;
create function public.inner_f(t int) returns bool language sql stable as $$ select exists(select 1 from mm2 where mm2.team = t and who = auth.uid()) $$;
create function public.outer_f(t int) returns bool language sql stable set search_path = p2 as $$ select public.inner_f(t) $$;
create table u1(id int, team int); insert into u1 values (1,7); grant select on u1 to app; alter table u1 enable row level security; create policy p on u1 using (outer_f(team));
create function public.quoted_path(t int) returns bool language plpgsql stable set search_path = 'public, p2' as $$ begin return exists(select 1 from mm2 where mm2.team = t and who = auth.uid()); end $$;
create table u2(id int, team int); insert into u2 values (1,7); grant select on u2 to app; alter table u2 enable row level security; create policy p on u2 using (quoted_path(team));
-- default-arg overload shadows: path a: f(int,int default 0), path b: f(int)
create function p2.g(int, int default 0) returns bool language sql as 'select false'; create function public.g(int) returns bool language sql as 'select true';
create function usesg(t int) returns bool language sql stable set search_path = p2, public as $$ select g(t) $$;
create table u3(id int, team int); insert into u3 values (1,7); grant select on u3 to app; alter table u3 enable row level security; create policy p on u3 using (usesg(team));
-- varchar vs text overload
create function p2.h(text) returns bool language sql as 'select true'; create function public.h(varchar) returns bool language sql as 'select false';
create function usesh(t varchar) returns bool language sql stable set search_path = p2, public as $$ select h(t) $$;
create table u4(id int, v varchar); insert into u4 values (1,'x'); grant select on u4 to app; alter table u4 enable row level security; create policy p on u4 using (usesh(v));
-- int4 literal to bigint/int overload
create function p2.k(bigint) returns bool language sql as 'select true';
-- null composite inside sub-select
create table cm(id int, who uuid, c comp); insert into cm values (1,'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',row(null,1)); grant select on cm to app;
-- cached: SECURITY DEFINER + invoker nested path
drop operator public.= (varchar,varchar);
create table pa(id int, j json); insert into pa values (1,'{"a":1e-9223372036854775808}'); grant select on pa to app; alter table pa enable row level security; create policy p on pa using ((j::jsonb ->> 'a') is null);
create table pb(id int, j json); insert into pb values (1,(repeat('[',9000)||repeat(']',9000))::json); grant select on pb to app; alter table pb enable row level security; create policy p on pb using ((j::jsonb ->> 'a') is null);
create table pc(id int, del bool); insert into pc values (1,true),(2,false),(3,null); grant select on pc to app; alter table pc enable row level security; create function isn(d bool) returns bool language sql immutable as 'select d isnull'; create policy p on pc using (isn(del));
-- user-defined cast / type fallthrough; alias catches
create table pd(id int, j json); insert into pd values (1,'"\ud800"'); grant select on pd to app; alter table pd enable row level security; create policy p on pd using ((j #>> '{}') is distinct from 'x');
create table pe(id int, t text); insert into pe values (1,'1e400'),(2,'0x10'),(3,'1_0'); grant select on pe to app; alter table pe enable row level security; create policy p on pe using (t::jsonb is not null);
create table pf(id int, c "char", n name); insert into pf values (1,'a',repeat('z',63)); grant select on pf to app; alter table pf enable row level security; create policy p on pf using (n <> (repeat('z',63)||'q')::text);
-- plpgsql returning text into name / varchar
create function tn(t text) returns name language plpgsql immutable as $$ begin return t; end $$;
create table pg(id int, t text); insert into pg values (1,repeat('z',63)||'q'); grant select on pg to app; alter table pg enable row level security; create policy p on pg using (tn(t) <> tn(repeat('z',63)));
-- null composite in exists sub-select and coalesce
create table ph(id int, c comp); insert into ph values (1,row(null,null)); grant select on ph to app; alter table ph enable row level security; create policy p on ph using (coalesce(c, c) is not null or case when c is null then false else true end);
-- array null/lower bounds
create table pi(id int, a int[]); insert into pi values (1,'[0:1]={1,2}'),(2,'{{1,2},{3,4}}'),(3,'{}'),(4,null); grant select on pi to app; alter table pi enable row level security; create policy p on pi using (3 <> all (a));
-- jsonb number canon
create table pk(id int, j json); insert into pk values (1,'{"a":{"x":1.0e2,"y":-0,"z":"\u00e9\u0007/\/"}}'); grant select on pk to app; alter table pk enable row level security; create policy p on pk using ((j::jsonb ->> 'a') <> '{"x": 100, "y": 0, "z": "é\u0007//"}');
create table qa(id int, s text); insert into qa values (1,'foobar'); grant select on qa to app; alter table qa enable row level security;
create function qa_f(s text) returns bool language sql immutable as $$ select s <> 'foo'
 'bar' $$; create policy p on qa using (qa_f(s));
create table qb(id int, s text); insert into qb values (1,'a''b'),(2,E'a\\b'),(3,E'a\nb'); grant select on qb to app; alter table qb enable row level security;
create policy p on qb using (s <> all (array['a''b', E'a\\b', E'a\nb']));
-- nested comment
create table qc(id int, s text); insert into qc values (1,'x'); grant select on qc to app; alter table qc enable row level security;
create function qc_f(s text) returns bool language sql immutable as $$ select /* a /* b */ true or */ s = 'y' $$; create policy p on qc using (qc_f(s));
-- E-octal
create table qd(id int, s text); insert into qd values (1,'A'); grant select on qd to app; alter table qd enable row level security;
create function qd_f(s text) returns bool language sql immutable as $$ select s <> E'\101' and s <> E'\x41' and s <> E'\u0041' $$; create policy p on qd using (qd_f(s));
-- cr comment
create table qe(id int, s text); insert into qe values (1,'x'); grant select on qe to app; alter table qe enable row level security;
create function qe_f(s text) returns bool language sql immutable as E' select true --x\r and s = ''y'' '; create policy p on qe using (qe_f(s));
-- policy with double-quoted names
create table qf(id int, "A" text, a text); insert into qf values (1,'x','y'); grant select on qf to app; alter table qf enable row level security; create policy p on qf using ("A" = 'y' or a = 'x');
-- sub-select scalar in plain join with alias capture
create table ml(id int, who uuid, team int); insert into ml values (1,'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',7),(2,null,9); grant select on ml to app;
create table qg(id int, team int, who uuid); insert into qg values (1,9,null),(2,7,null); grant select on qg to app; alter table qg enable row level security; create policy p on qg using (team not in (select team from ml where ml.who = auth.uid() ) and team not in (select ml.team from ml where ml.team > qg.team));
-- definer function reading table with policies that call uid() for inner role current_user
create function nested(t int) returns bool language sql stable as $$ select exists (select 1 from ml where ml.team = t and ml.who in (select ml2.who from ml ml2 where ml2.id in (select x.id from ml x where x.team = ml.team and x.team = t))) $$;
create table qh(id int, team int); insert into qh values (1,7),(2,9),(3,8); grant select on qh to app; alter table qh enable row level security; create policy p on qh using (nested(team));
-- argument with subselect given twice through two functions
create function ww(a int, b int) returns bool language sql stable as $$ select a = b or exists (select 1 from ml where ml.team = b and ml.id = a) $$;
create table qi(id int, team int); insert into qi values (1,7),(2,9),(3,8); grant select on qi to app; alter table qi enable row level security; create policy p on qi using (ww((select max_id.id from ml max_id where max_id.who is null), team));
-- role check in sub-select with definer + invoker
create table ra(id int, d date); insert into ra values (1,'1990-01-01'); grant select on ra to app; alter table ra enable row level security;
create function ra_f(d date) returns bool language sql immutable as $$ select d > '01-02-03' $$; create policy p on ra using (ra_f(d));
-- role without schema usage calling body
create schema hid; create function hid.t() returns bool language sql as 'select true';
create function rb_f() returns bool language sql stable as 'select hid.t()';
create table rb(id int); insert into rb values (1); grant select on rb to app; alter table rb enable row level security; create policy p on rb using (rb_f());
-- restrictive only with check, permissive true
create table rc(id int); insert into rc values (1); grant select on rc to app; alter table rc enable row level security; create policy p on rc using (true); create policy q on rc as restrictive with check (false);
-- case-folded setting path via alter database set
create schema "Foo"; create table "Foo".mx(id int, who uuid); create table public.mx(id int, who uuid); insert into public.mx values (1,null); grant usage on schema "Foo" to app; grant select on "Foo".mx, public.mx to app;
create function rd_f() returns bool language sql stable set search_path = "Foo", public as 'select exists (select 1 from mx)';
create table rd(id int); insert into rd values (1); grant select on rd to app; alter table rd enable row level security; create policy p on rd using (rd_f());
-- foreign / matview shadow
create materialized view p2.mx as select 1 as id, null::uuid as who where false; grant select on p2.mx to app;
create function re_f() returns bool language sql stable set search_path = p2, public as 'select exists (select 1 from mx)';
create table re(id int); insert into re values (1); grant select on re to app; alter table re enable row level security; create policy p on re using (re_f());
-- inherited parent shadow
create table api.mx(id int, who uuid); create table api.mxc() inherits (api.mx); grant select on api.mx to app;
create function rf_f() returns bool language sql stable set search_path = api, public as 'select exists (select 1 from mx)';
create table rf(id int); insert into rf values (1); grant select on rf to app; alter table rf enable row level security; create policy p on rf using (rf_f());
-- set-returning in IN / bare
create table rg(id int, a int[]); insert into rg values (1,'{}'); grant select on rg to app; alter table rg enable row level security; create policy p on rg using (exists (select unnest(rg.a)));
-- exists with max
create table rh(id int); insert into rh values (1); grant select on rh to app; alter table rh enable row level security; create policy p on rh using (not exists (select max(bl2.id) from mx bl2 where bl2.who is not null));
