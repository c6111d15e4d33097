-- The tables of the database. The farm runs the application's queries; it never makes or changes tables.
CREATE TABLE IF NOT EXISTS orders (
    id TEXT PRIMARY KEY,
    customer TEXT NOT NULL,
    status TEXT NOT NULL,
    total INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS orders_of_customer ON orders (customer);
CREATE TABLE IF NOT EXISTS customers (
    name TEXT PRIMARY KEY,
    orders INTEGER NOT NULL
);
