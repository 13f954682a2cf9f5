//! Other people's clients against one real node, hostile ones too, and what an operator types.

mod abandoned_uploads;
mod directory_origin;
mod existing_data;
mod hostile_resp;
mod hostile_s3;
mod large_bodies;
mod long_values;
mod mounts;
mod one_core;
mod operator;
mod origin_checksums;
mod origin_metrics;
mod part_boundaries;
mod readme;
mod redis_clients;
mod s3_clients;
mod scripts;
mod write_back;
