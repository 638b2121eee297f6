//! End-to-end tests: a real `spillway` process, the real demo model, raw sockets and the official client libraries.
//!
//! Every test speaks to the process as a customer or an operator would: over HTTP, over the command line, or by signals.
#![forbid(unsafe_code)]

mod support;

mod admin;
mod alerts;
mod auth;
mod batches;
mod billing;
mod both_stores;
mod capacity;
mod chat;
mod cli;
mod clients;
mod completions;
mod corpus;
mod crash;
mod demands;
mod device;
mod drain;
mod embeddings;
mod fault_matrix;
mod faults;
mod files;
mod fleet;
mod fleet_ledger;
mod fleet_reports;
mod fleet_streams;
mod guard;
mod hub;
mod idempotency;
mod leases;
mod limits;
mod messages;
mod openapi;
mod raw_http;
mod receipts;
mod reports;
mod responses;
mod sampling;
mod schemas;
mod sdk;
mod slow_clients;
mod structured;
mod tiers;
