//! The binary as its users meet it: pages that must say what the program does, and the program
//! itself as a process.

mod check;
mod dev;
mod doctor;
mod eval;
mod generate;
mod hostile_queries;
mod live_order;
mod live_queries;
mod live_resume;
mod live_tables;
mod pages;
mod policies;
mod pooler;
mod process;
mod routes;
mod sample;
mod scripts;
mod serve;
mod setup;
mod sync_config_page;
mod sync_from_policies;
