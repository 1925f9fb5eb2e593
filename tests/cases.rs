//! Reports of users and attacks that once failed, and the test that holds the right answer of each.
//!
//! The inputs of the reports are not part of the repository; where they are beside the test data, every one of them must have
//! its row here.

mod common;

use std::fs;

use common::root;

/// The report, the file of its test, and the test.
const CASES: &[(&str, &str, &str)] = &[
    ("batch-output-device", "cli/tests/bad_input.rs", "a_batch_that_fails_at_its_start_changes_nothing"),
    (
        "batch-poison-grammar",
        "cli/tests/batch_command/forms.rs",
        "a_grammar_that_explodes_is_a_line_with_its_error",
    ),
    (
        "batch-poison-nan",
        "cli/tests/batch_command/forms.rs",
        "a_model_that_gives_nan_is_a_line_with_its_error",
    ),
    ("control-token-by-template", "src/chat/guard.rs", "no_control_token_escapes"),
    ("ctrl-c-while-silent", "src/store/hub/tests.rs", "a_silent_server_is_left_when_that_is_asked_for"),
    ("end-token-not-control", "cli/tests/metadata.rs", "a_token_ends_a_text_by_its_name"),
    ("execute-cache-capacity", "tools/tests/single.rs", "inputs_that_kernels_cannot_have_are_refused"),
    ("f16c-without-avx", "cli/tests/system.rs", "a_processor_without_avx_runs_the_same_text"),
    ("gbnf", "tests/gbnf.rs", "the_whole_notation"),
    ("gguf-many-kv-heads", "cli/tests/limits.rs", "caches_of_many_heads_take_memory_as_they_are_used"),
    ("hub-json-memory", "src/store/hub/tests.rs", "what_a_server_states_is_bounded"),
    ("import-rope-type-twice", "import/src/config.rs", "what_is_said_twice_has_to_be_the_same"),
    (
        "ir-run-allocations",
        "cli/tests/limits.rs",
        "sizes_of_a_call_are_compared_before_anything_is_allocated",
    ),
    ("killed-writer", "cli/tests/system.rs", "a_writer_that_is_told_to_end_leaves_nothing"),
    (
        "nonfinite-plan-weights",
        "tests/damaged_weights.rs",
        "scales_of_blocks_that_are_not_finite_are_refused_by_name",
    ),
    (
        "plan-cache-not-made-again",
        "src/store/plan_cache.rs",
        "whatever_stands_in_the_place_of_a_plan_it_is_made_again",
    ),
    ("plan-group-kernel-explodes", "cli/tests/limits.rs", "groups_that_no_file_has_are_refused"),
    (
        "plan-quadratic-time",
        "cli/tests/limits.rs",
        "modules_take_time_in_proportion_to_their_text_or_are_refused",
    ),
    ("prompt-file-crlf", "cli/tests/peers.rs", "marks_and_line_ends_are_no_part_of_a_text"),
    ("pull-416-loop", "src/store/hub/tests.rs", "bytes_that_come_again_are_no_progress"),
    (
        "response-format-schema",
        "cli/tests/batch_command/forms.rs",
        "a_form_in_any_spelling_is_followed_or_refused",
    ),
    ("schema-unknown-format", "tests/json_schema_suite.rs", "schemas_as_generators_write_them"),
    (
        "sigbus-on-truncation",
        "cli/tests/limits.rs",
        "a_plan_that_is_cut_short_ends_the_command_with_an_error",
    ),
    ("special-id-none", "cli/tests/metadata.rs", "ids_that_stand_for_none_are_let_pass"),
    ("template-crlf", "src/chat/template.rs", "line_breaks_of_all_systems_are_one"),
    ("template-cyclic-namespace", "jinja/tests/hostile.rs", "knots_end"),
    ("template-dict-quadratic", "jinja/tests/hostile.rs", "growth_ends"),
    ("template-none-iterable", "src/chat/template.rs", "what_is_none_can_be_asked_for"),
    ("temporary-files-stay", "cli/tests/system.rs", "the_next_writer_removes_what_a_killed_one_left"),
    ("terminal-escapes", "cli/tests/system.rs", "control_characters_of_a_text_are_shown_on_a_terminal"),
    ("thread-limit", "cli/tests/system.rs", "few_threads_are_enough_or_the_limit_is_named"),
    ("unit-messages", "cli/tests/limits.rs", "weights_that_overflow_are_told_before_and_after"),
    ("utf8-bom", "cli/tests/peers.rs", "marks_and_line_ends_are_no_part_of_a_text"),
];

#[test]
fn every_case_has_its_test() {
    for (case, file, test) in CASES {
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert!(text.contains(&format!("fn {test}(")), "{case}: {file} has no test {test}");
    }
    let data =
        std::env::var_os("BITNETC_TEST_DATA").map_or_else(|| root().join("../shared/data"), Into::into);
    let Ok(folders) = fs::read_dir(data.join("../cases")) else {
        return println!("skipped: no folder of cases");
    };
    for folder in folders.flatten().filter(|entry| entry.path().is_dir()) {
        let name = folder.file_name().into_string().unwrap();
        assert!(CASES.iter().any(|(case, ..)| *case == name), "{name} has no test");
    }
}
