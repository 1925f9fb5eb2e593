//! Every command of the docs, run and compared (`cli/tests/cli/*.md`, and guides that show output). `TRYCMD=overwrite cargo test -p bitnetc-cli --test cli` records.

#[test]
fn documented_commands() {
    // The commands name files from the root of the repository.
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).unwrap();
    let cases = trycmd::TestCases::new();
    cases.default_bin_name("bitnetc");
    cases.env("NO_COLOR", "1");
    cases.env("COLUMNS", "100");
    // A user without settings and caches.
    cases.env("HOME", "/nowhere");
    cases.env("HF_HUB_OFFLINE", "1");
    for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"] {
        cases.env(name, "");
    }
    cases.case("cli/tests/cli/*.md");
    cases.case("docs/read-an-ir-dump.md");
}
