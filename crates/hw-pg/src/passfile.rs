//! passfile
