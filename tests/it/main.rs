//! Everything that needs more than one module, in one test program.

#![allow(
    clippy::unwrap_used,
    clippy::string_slice,
    reason = "an expectation that fails is how a test fails"
)]

mod admin;
mod agents_python;
mod apiserver;
mod captures;
mod cli;
mod codec_python;
mod config_files;
mod counterparts;
mod demo;
mod deploy;
mod docs;
mod exec;
mod fidelity;
mod fuzz_corpus;
mod hostile;
mod injector;
mod keep;
mod kubernetes;
mod layers;
mod ledger;
mod library_alone;
mod limits;
mod linking;
mod linking_hostile;
mod linking_lives;
mod linking_privileges;
mod linking_slots;
mod linking_state;
mod operations;
mod overload;
mod pages;
mod preload;
mod probe_port;
mod probes;
mod propagation;
mod receivers;
mod redirect;
mod reload;
mod remote_sampling;
mod reporter_faults;
mod reporter_jaeger;
mod reporter_names;
mod reporter_wires;
mod scenario_agent;
mod scenario_clients;
mod scenario_exporters;
mod scenario_flask;
mod scenario_formats;
mod scenario_sampling;
mod scenario_signals;
mod scenario_tracers;
mod scenario_wires;
mod shims;
mod slow_streams;
mod spool;
mod support;
mod tls;
mod traces;
mod view_page;
mod xray_sampling;
