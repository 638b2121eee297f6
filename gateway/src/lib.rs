//! Spillway's gateway: HTTP, identity, limits and money around the engine.
//!
//! It knows nothing of tensors, blocks or devices. Modules form a row and each uses only those before it:
//! `civil`, `money`, `config` < `accounts`, `limits`, `ledger` < `serving` < `api` < `app` < `server` < `cli`.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod civil;
pub mod config;
pub mod ledger;
pub mod limits;
pub mod money;
