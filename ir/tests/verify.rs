//! Modules that no text can describe, as passes with a mistake could make them: the verifier finds what the parser would
//! have refused.

use bitnetc_ir::limits::{MAX_INPUTS, MAX_OPS, MAX_OUTPUTS, MAX_PARTS};
use bitnetc_ir::plan::{FuncPlan, Place};
use bitnetc_ir::verify::{Rule, verify};
use bitnetc_ir::{
    Arch, ContentHash, DType, Func, FuncBuilder, Module, Op, Operand, ParamDecl, ParamDef, Rows, Sizes,
    Stage, TargetDesc, TokenCount, Type, ValueId,
};

fn act(width: u32) -> Type {
    Type::rows(DType::F32, Rows { per_token: false, width })
}

fn file(name: &str, ty: Type) -> ParamDecl {
    ParamDecl {
        name: name.to_owned(),
        ty,
        def: ParamDef::File { tensor: name.to_owned(), hash: ContentHash([0; 16]) },
    }
}

/// Two `relu2`, one after the other.
fn chain(name: &str) -> (Func, [ValueId; 3]) {
    let module = Module::new();
    let mut b = FuncBuilder::new(&module, name, TokenCount::One);
    let x = b.input("x", act(8));
    let y = b.relu2(x).unwrap();
    let z = b.relu2(y).unwrap();
    (b.finish(vec![z]), [x, y, z])
}

fn rules(module: &Module) -> Vec<Rule> {
    let mut all: Vec<Rule> = verify(module).expect_err("a rule is broken").iter().map(|e| e.rule).collect();
    all.dedup();
    all
}

fn rules_of(func: Func) -> Vec<Rule> {
    let mut module = Module::new();
    module.add_func(func);
    rules(&module)
}

#[test]
fn names() {
    let mut module = Module::new();
    module.add_func(chain("f").0);
    module.add_func(chain("f").0);
    module.add_func(chain("no name").0);
    module.add_param(file("w", act(8)));
    module.add_param(file("w", act(8)));
    module.add_param(file("", act(8)));
    let errors = verify(&module).unwrap_err();
    let places: Vec<(Rule, &str)> = errors.iter().map(|e| (e.rule, e.place.as_str())).collect();
    let expected = [
        (Rule::NameUnique, "@w"),
        (Rule::NameSyntax, "@"),
        (Rule::NameUnique, "@f"),
        (Rule::NameSyntax, "@no name"),
    ];
    assert_eq!(places, expected);

    let mut module = Module::new();
    let mut decl = file("w", act(8));
    decl.def = ParamDef::File { tensor: "t".repeat(257), hash: ContentHash([0; 16]) };
    module.add_param(decl);
    assert_eq!(rules(&module), [Rule::NameSyntax]);

    let (mut func, [x, ..]) = chain("f");
    func.add_input("x", act(8));
    assert_eq!(rules_of(func), [Rule::NameUnique]);
    let mut func = Func::new("f", TokenCount::One);
    func.add_input("0", act(8));
    assert_eq!(rules_of(func), [Rule::NameSyntax]);
    assert_eq!(chain("f").0.value(x).name.as_deref(), Some("x"));
}

#[test]
fn parameters_refer_back_only() {
    let mut module = Module::new();
    let a = module.add_param(file("a", Type::matrix(DType::F32, 4, 4)));
    let own = module.params().keys().next_back().map(|_| bitnetc_ir::Entity::from_index(1)).unwrap();
    let ter = Type::matrix(DType::Ter, 16, 16);
    module.add_param(ParamDecl { name: "b".into(), ty: ter.clone(), def: ParamDef::Concat(vec![own]) });
    assert_eq!(rules(&module), [Rule::ParamOrder]);
    module.add_param(ParamDecl { name: "c".into(), ty: ter.clone(), def: ParamDef::Concat(vec![a]) });
    module.add_param(ParamDecl { name: "d".into(), ty: ter, def: ParamDef::Concat(Vec::new()) });
    assert_eq!(rules(&module), [Rule::ParamOrder, Rule::ParamConcat]);
}

#[test]
fn operands_come_first() {
    let (mut func, [_, y, z]) = chain("f");
    let (first, last) = (func.producer(y).unwrap(), func.producer(z).unwrap());
    func.set_operand(first, 0, Operand::Value(z));
    let found = rules_of(func.clone());
    assert_eq!(found, [Rule::OperandDefined, Rule::GraphCycle]);
    // Of another function, or of a module with more parameters.
    let (mut func, _) = chain("f");
    func.set_operand(last, 0, Operand::Param(bitnetc_ir::Entity::from_index(3)));
    assert_eq!(rules_of(func), [Rule::OperandDefined]);
}

#[test]
fn ops_and_results_have_the_types_of_the_table() {
    let mut func = Func::new("f", TokenCount::One);
    let x = func.add_input("x", act(8));
    let node = func.insert(None, Op::Relu2 {}, vec![x.into()], vec![act(9)]);
    func.set_outputs(func.node(node).results.clone());
    assert_eq!(rules_of(func), [Rule::ResultType]);

    let mut func = Func::new("f", TokenCount::One);
    let x = func.add_input("x", act(8));
    func.insert(None, Op::Relu2 {}, vec![x.into()], Vec::new());
    assert_eq!(rules_of(func), [Rule::ResultType]);

    let mut func = Func::new("f", TokenCount::One);
    let x = func.add_input("x", act(8));
    func.insert(None, Op::Add {}, vec![x.into()], vec![act(8)]);
    assert_eq!(rules_of(func), [Rule::OpTypes]);
}

#[test]
fn outputs_exist() {
    let (mut func, [.., z]) = chain("f");
    func.set_outputs(Vec::new());
    assert!(func.remove(func.producer(z).unwrap()));
    func.set_outputs(vec![z]);
    assert_eq!(rules_of(func), [Rule::OutputDefined]);
    let (mut func, _) = chain("f");
    func.set_outputs(vec![bitnetc_ir::Entity::from_index(99)]);
    assert_eq!(rules_of(func), [Rule::OutputDefined]);
}

#[test]
fn plans_speak_of_live_values() {
    let planned = |change: &dyn Fn(&mut Func, &mut FuncPlan, [ValueId; 3])| {
        let mut module = Module::new();
        module.stage = Stage::Planned;
        module.target = Some(TargetDesc::baseline(Arch::Aarch64));
        let (mut func, values) = chain("f");
        let [x, y, z] = values;
        let mut plan = FuncPlan { arena_bytes: 64, ..FuncPlan::default() };
        plan.places.insert(x, Place::Extern);
        plan.places.insert(y, Place::Arena { offset: 0, size: 64 });
        plan.places.insert(z, Place::Extern);
        change(&mut func, &mut plan, values);
        func.plan = Some(plan);
        module.add_func(func);
        verify(&module).map_err(|errors| errors[0].rule)
    };
    assert_eq!(planned(&|_, _, _| {}), Ok(()));
    let stray: ValueId = bitnetc_ir::Entity::from_index(3);
    let place = Place::Arena { offset: 0, size: 64 };
    assert_eq!(
        planned(&|_, p, [x, ..]| {
            p.places.insert(x, place);
        }),
        Err(Rule::PlanInput)
    );
    assert_eq!(
        planned(&|_, p, [x, ..]| {
            p.places.remove(&x);
        }),
        Err(Rule::PlanComplete)
    );
    assert_eq!(
        planned(&|_, p, [_, y, _]| {
            p.places.remove(&y);
        }),
        Err(Rule::PlanComplete)
    );
    assert_eq!(
        planned(&|_, p, _| {
            p.places.insert(stray, place);
        }),
        Err(Rule::PlanComplete)
    );
    let removed = planned(&|f, p, [.., z]| {
        f.set_outputs(Vec::new());
        let node = f.producer(z).unwrap();
        assert!(f.remove(node));
        p.places.remove(&z);
        p.barriers.insert(node);
    });
    assert_eq!(removed, Err(Rule::PlanComplete));
    let forward = planned(&|_, p, [_, y, z]| {
        p.places.insert(y, Place::Alias { of: z });
    });
    assert_eq!(forward, Err(Rule::PlanAlias));
}

#[test]
fn errors_are_bounded_and_name_their_place() {
    let mut func = Func::new("f", TokenCount::One);
    let x = func.add_input("x", act(8));
    for _ in 0..1000 {
        func.insert(None, Op::Relu2 {}, vec![x.into()], vec![act(9)]);
    }
    let mut module = Module::new();
    module.add_func(func);
    let errors = verify(&module).unwrap_err();
    assert_eq!(errors.len(), bitnetc_ir::verify::MAX_ERRORS);
    assert_eq!(errors[7].to_string(), "[result-type] @f, %7: the type should be f32[8]");
}

#[test]
fn long_chains_take_no_stack() {
    let mut func = Func::new("f", TokenCount::One);
    let mut x = func.add_input("x", act(8));
    for _ in 0..MAX_OPS {
        let node = func.insert(None, Op::Relu2 {}, vec![x.into()], vec![act(8)]);
        x = func.node(node).results[0];
    }
    func.set_outputs(vec![x]);
    let mut module = Module::new();
    module.add_func(func);
    assert_eq!(verify(&module), Ok(()));
}

fn rules_broken(module: &Module) -> Vec<Rule> {
    verify(module).unwrap_err().iter().map(|e| e.rule).collect()
}

#[test]
fn sizes_above_the_limits_are_refused() {
    let func = |ops: usize, outputs: usize, inputs: usize| {
        let mut func = Func::new(format!("f{ops}"), TokenCount::One);
        let x = func.add_input("x", act(8));
        for i in 1..inputs {
            func.add_input(format!("x{i}"), act(8));
        }
        let mut made = Vec::new();
        for _ in 0..ops {
            let node = func.insert(None, Op::Relu2 {}, vec![x.into()], vec![act(8)]);
            made.push(func.node(node).results[0]);
        }
        func.set_outputs(made[..outputs].to_vec());
        func
    };
    let module = |funcs: Vec<Func>| {
        let mut module = Module::new();
        for func in funcs {
            module.add_func(func);
        }
        module
    };
    assert_eq!(verify(&module(vec![func(MAX_OUTPUTS, MAX_OUTPUTS, MAX_INPUTS)])), Ok(()));
    assert_eq!(rules_broken(&module(vec![func(MAX_OUTPUTS + 1, MAX_OUTPUTS + 1, 1)])), [Rule::FuncSize]);
    assert_eq!(rules_broken(&module(vec![func(1, 1, MAX_INPUTS + 1)])), [Rule::FuncSize]);
    assert_eq!(rules_broken(&module(vec![func(MAX_OPS, 1, 1), func(1, 1, 1)])), [Rule::ModuleSize]);
}

#[test]
fn a_value_has_so_many_parts_through_all_splits() {
    let mut func = Func::new("f", TokenCount::One);
    let mut rest = func.add_input("x", act(200));
    let mut first = None;
    for i in 0..=MAX_PARTS as u32 / 2 {
        let left = 199 - i;
        let sizes = Sizes(vec![1, left]);
        let node = func.insert(None, Op::Split { sizes }, vec![rest.into()], vec![act(1), act(left)]);
        first.get_or_insert(func.node(node).results[0]);
        rest = func.node(node).results[1];
    }
    let node = func.insert(None, Op::Relu2 {}, vec![first.unwrap().into()], vec![act(1)]);
    func.set_outputs(func.node(node).results.clone());
    let mut module = Module::new();
    module.stage = Stage::Fused;
    module.add_func(func);
    assert_eq!(rules_broken(&module), [Rule::SplitParts]);
}
