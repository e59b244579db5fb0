//! Answers questions about ultra-high-resolution aerial frames inside a fixed token budget, a fixed memory and a deadline.

pub mod units;

pub mod kernels;

pub mod geometry;

pub mod config;

pub mod arena;

pub mod imaging;

pub mod compress;

pub mod engine;

pub mod planner;

pub mod pipeline;

pub mod report;

pub mod board;

pub mod journal;

pub mod link;

pub mod http;

pub mod service;

pub mod qualify;

pub mod cli;
