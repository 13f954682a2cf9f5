//! Other people's clients against one real node, and what an operator types.

mod one_core;
mod operator;
mod redis_clients;
mod s3_clients;
mod scripts;
mod write_back;
