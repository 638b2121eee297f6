//! Spillway's gateway: HTTP, identity, limits and money around the engine.
//!
//! It knows nothing of tensors, blocks or devices. Modules form a row and each uses only those before it:
//! `civil`, `money`, `config`, `sqlite` < `accounts`, `capacity`, `files`, `guard`, `limits`, `ledger`, `idempotency`, `metrics`, `slo` < `serving` < `batches` < `api` < `app` < `server` < `node` < `cli`.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod alerts;
pub mod api;
pub mod app;
pub mod batches;
pub mod capacity;
pub mod civil;
pub mod cli;
pub mod config;
pub mod files;
pub mod guard;
pub mod idempotency;
pub mod leases;
pub mod ledger;
pub mod limits;
pub mod metrics;
pub mod money;
pub mod node;
pub mod receipts;
pub mod registry;
pub mod responses;
pub mod server;
pub mod serving;
pub mod slo;
mod sqlite;
pub mod telemetry;
