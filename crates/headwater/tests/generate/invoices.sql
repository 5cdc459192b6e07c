-- The example of the DataSync specification, section 20.
CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE TABLE invoices (
    id UUID DEFAULT uuid_generate_v4() PRIMARY KEY NOT NULL,
    total_cents INT NOT NULL,
    paid_at TIMESTAMP WITH TIME ZONE DEFAULT NULL,
    mood mood NOT NULL,
    tags TEXT[] NOT NULL
);
CREATE TABLE users (
    id UUID DEFAULT uuid_generate_v4() PRIMARY KEY NOT NULL,
    type TEXT NOT NULL,
    number SERIAL NOT NULL,
    balance BIGINT DEFAULT 0 NOT NULL,
    rate REAL,
    height DOUBLE PRECISION,
    is_here BOOLEAN DEFAULT false NOT NULL,
    data JSONB,
    old_moods mood[] DEFAULT '{}' NOT NULL
);
ALTER TABLE invoices ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON invoices TO ihp_authenticated USING (id = ihp_user_id());
