//! The real compiler on every kernel: it compiles for each target, keeps to its registers, and the hot ones are made of
//! the instructions they were written for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use kernels::cuda::emulator::{FAMILIES, sources};

/// What a command prints when all is well.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Registers and spilled bytes of each kernel and target in the assembler's report.
fn usage(report: &str) -> BTreeMap<(String, String), (u32, u32)> {
    let (mut found, mut kernel, mut spilled) = (BTreeMap::new(), None, 0);
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<u32>().ok()).expect("a number");
    for line in report.lines() {
        if line.contains("Compiling entry function") {
            let mut names = line.split('\'').skip(1).step_by(2).map(str::to_owned);
            kernel = names.next().zip(names.next());
        } else if let Some(at) = line.find(" bytes spill stores") {
            spilled = number(line[..at].split(' ').next_back());
        } else if let Some(rest) = line.split("Used ").nth(1) {
            found.insert(kernel.take().expect("a kernel"), (number(rest.split(' ').next()), spilled));
        }
    }
    found
}

fn compile(home: &Path, out: &Path) -> BTreeMap<(String, String), (u32, u32)> {
    run(Command::new(sources().join("compile")).args([home, out]));
    let report =
        |family: &&str| std::fs::read_to_string(out.join(format!("{family}.log"))).expect("a report");
    FAMILIES.iter().flat_map(|family| usage(&report(family))).collect()
}

/// Instructions that must be in a kernel: all that it loads in bulk comes 16 bytes at a time.
const INSTRUCTIONS: [(&str, &str, &[&str]); 8] = [
    ("attention_decode", "attention_decode_f16_d128", &["LDG.E.NA.128", "HMMA.16816.F32"]),
    ("attention_decode", "attention_decode_bf16_d64", &["LDG.E.NA.128", "HMMA.16816.F32.BF16"]),
    ("attention_decode", "attention_decode_int8_d128", &["LDG.E.NA.128", "HMMA.16816.F32"]),
    ("attention_prefill", "attention_prefill_f16_d128", &["LDGSTS", "LDSM", "HMMA.16816.F32"]),
    ("attention_prefill", "attention_prefill_bf16_d64", &["LDGSTS", "LDSM", "HMMA.16816.F32.BF16"]),
    ("linear_small", "linear_small_bf16", &["LDG.E.NA.128", "HMMA.16816.F32.BF16"]),
    ("linear_small", "linear_small_u4", &["LDG.E.NA.128", "HMMA.16816.F32.BF16"]),
    ("linear", "linear_bf16", &["LDGSTS", "LDSM", "HMMA.16816.F32.BF16"]),
];

#[test]
fn the_real_compiler_keeps_to_the_gate() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let home = run(Command::new(sources().join("toolkit")).arg(folder.join("cuda-toolkit")));
    let home = PathBuf::from(home.lines().last().expect("a path"));
    let out = folder.join("fatbins");
    std::fs::create_dir_all(&out).expect("a folder");
    let table: String = compile(&home, &out)
        .iter()
        .map(|((kernel, target), (registers, spilled))| format!("{kernel} {target} {registers} {spilled}\n"))
        .collect();
    std::fs::write(out.join("gate.txt"), &table).expect("written");
    let gate = std::fs::read_to_string(sources().join("gate.txt")).expect("the gate");
    let gate: String =
        gate.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    assert!(table == gate, "kernels/cuda/gate.txt does not say what the compiler says:\n{table}");
    for (family, kernel, instructions) in INSTRUCTIONS {
        let fatbin = out.join(format!("{family}.fatbin"));
        let mut cuobjdump = Command::new(home.join("bin/cuobjdump"));
        let path =
            std::env::join_paths([home.join("bin"), "/usr/bin".into(), "/bin".into()]).expect("a path");
        cuobjdump.env("PATH", path);
        let code = run(cuobjdump.args(["-sass", "-arch", "sm_90a", "-fun", kernel]).arg(fatbin));
        for instruction in instructions {
            assert!(code.contains(instruction), "{kernel} has no {instruction}");
        }
    }
}
