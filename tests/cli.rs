//! Every command of the docs, run and compared (`tests/cli/*.md`). `TRYCMD=overwrite cargo test --test cli` records.

#[test]
fn documented_commands() {
    let cases = trycmd::TestCases::new();
    cases.default_bin_name("bitnetc");
    cases.env("NO_COLOR", "1");
    cases.env("COLUMNS", "100");
    cases.case("tests/cli/*.md");
}
