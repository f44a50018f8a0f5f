//! Every input that was worth keeping, without a fuzzer.

use std::{fs, path::Path};

use minitunnel_fuzz::TARGETS;

#[test]
fn every_kept_input_passes_its_target() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut answers = Vec::new();
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            answers.push(target(&fs::read(path).unwrap()));
        }
        // A target whose inputs are all refused, or all accepted, would prove nothing.
        assert!(
            answers.contains(&true) && answers.contains(&false),
            "{name}: {answers:?}"
        );
    }
}
