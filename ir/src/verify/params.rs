//! Rules about parameters.

use std::collections::HashSet;

use super::{Anchor, Errors, Rule};
use crate::blocks::BlockFormat;
use crate::entity::{Entity, ParamId};
use crate::limits::GROUPS;
use crate::module::{Module, ParamDecl, ParamDef};
use crate::stage::Stage;
use crate::text::{MAX_NAME, is_name};
use crate::types::{DType, Dim, Layout, Type};
use crate::weights::{TILE_ROWS, TRITS_MAX_COLS, ternary_bytes};

/// Most elements of a parameter, exclusive; keeps byte counts and offsets far from overflow.
const MAX_ELEMENTS: u64 = 1 << 40;

pub(super) fn check(module: &Module, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (id, decl) in module.params().iter() {
        let place = format!("@{}", decl.name);
        let mut report = |rule: Rule, message: String| errors.add(rule, Anchor::Param(id), &place, message);
        if !is_name(&decl.name) {
            report(Rule::NameSyntax, "this is no name of the text form".to_owned());
        }
        if !names.insert(&decl.name) {
            report(Rule::NameUnique, "another parameter has this name".to_owned());
        }
        if let Err(message) = well_typed(&decl.ty) {
            report(Rule::ParamType, message);
            continue;
        }
        if decl.ty.elements().is_none_or(|n| n >= MAX_ELEMENTS) {
            report(Rule::ParamSize, format!("{} has 2^40 elements or more", decl.ty));
            continue;
        }
        if let Err(message) = well_laid(&decl.ty).and_then(|()| well_grouped(&decl.ty)) {
            report(Rule::ParamLayout, message);
        }
        if module.stage < Stage::LaidOut
            && (decl.ty.layout.is_packed_ternary() || decl.ty.layout == Layout::Keys16)
        {
            let message = format!("layout {} in stage {}", decl.ty.layout.name(), module.stage);
            report(Rule::LayoutEarly, message);
        }
        if let Err((rule, message)) = well_made(module, id, decl) {
            report(rule, message);
        }
    }
}

fn well_typed(ty: &Type) -> Result<(), String> {
    let vector = ty.dtype == DType::F32 && matches!(ty.shape.0[..], [Dim::N(1..)]);
    let matrix = matches!(
        ty.dtype,
        DType::F32 | DType::F16 | DType::Bf16 | DType::Ter | DType::W8 | DType::W6 | DType::W4
    ) && matches!(ty.shape.0[..], [Dim::N(1..), Dim::N(1..)]);
    match vector || matrix {
        true => Ok(()),
        false => {
            Err(format!("{ty} is neither an f32 vector, nor a f32, f16, bf16, ter, w8, w6 or w4 matrix"))
        }
    }
}

fn well_laid(ty: &Type) -> Result<(), String> {
    match (ty.layout, ty.as_matrix()) {
        (Layout::Rows, _) => Ok(()),
        (
            layout @ (Layout::I2s128 | Layout::Row16 | Layout::Tile16 | Layout::Trits16 | Layout::Lut16),
            Some((rows, cols)),
        ) if ty.dtype == DType::Ter => match (ternary_bytes(layout, rows, cols), layout) {
            (Some(_), _) => Ok(()),
            (None, Layout::Trits16 | Layout::Lut16) => {
                Err(format!("{ty}: {cols} columns are more than the {TRITS_MAX_COLS} of {}", layout.name()))
            }
            (None, _) => Err(format!("{ty}: {cols} columns are not in blocks of 128")),
        },
        (Layout::Tile16, Some(_)) if BlockFormat::of(ty.dtype).is_some() => Ok(()),
        (layout, _) => Err(format!("{ty}: layout {} is not for such a parameter", layout.name())),
    }
}

fn well_grouped(ty: &Type) -> Result<(), String> {
    let cols = ty.as_matrix().map_or(0, |(_, cols)| cols);
    match ty.group {
        0 => Ok(()),
        _ if ty.dtype != DType::Ter => Err(format!("{ty}: only ter matrices have groups")),
        _ if ty.layout == Layout::I2s128 => Err(format!("{ty}: layout {} has no groups", ty.layout.name())),
        g if !GROUPS.contains(&g) || !cols.is_multiple_of(g) => {
            Err(format!("{ty}: groups are 64, 128 or 256 columns, and divide the row"))
        }
        _ => Ok(()),
    }
}

fn same(rule: Rule, decl: &ParamDecl, expected: &Type) -> Result<(), (Rule, String)> {
    match decl.ty == *expected {
        true => Ok(()),
        false => Err((rule, format!("it is {}, its source makes {expected}", decl.ty))),
    }
}

fn well_made(module: &Module, id: ParamId, decl: &ParamDecl) -> Result<(), (Rule, String)> {
    let mut sources = Vec::new();
    for source in decl.def.sources() {
        match module.params().get(source) {
            Some(s) if source.index() < id.index() => sources.push(s),
            _ => {
                return Err((
                    Rule::ParamOrder,
                    "it is made of a parameter that is not declared before it".to_owned(),
                ));
            }
        }
    }
    // The rows and columns of a ternary source.
    let matrix = |s: &ParamDecl, rule: Rule| match s.ty.as_matrix() {
        Some(m) if s.ty.dtype == DType::Ter => Ok(m),
        _ => Err((rule, format!("@{} is {}, expected a ter matrix", s.name, s.ty))),
    };
    let is = |rule: Rule, rows: u64, cols: u32, layout: Layout| {
        let fits = decl.ty.dtype == DType::Ter
            && decl.ty.as_matrix().is_some_and(|(r, c)| u64::from(r) == rows && c == cols)
            && decl.ty.layout == layout
            && sources.iter().all(|s| s.ty.group == decl.ty.group);
        let made = Type::matrix(DType::Ter, u32::try_from(rows).unwrap_or(u32::MAX), cols)
            .with_layout(layout)
            .with_group(sources.first().map_or(0, |s| s.ty.group));
        match fits {
            true => Ok(()),
            false => Err((rule, format!("it is {}, its sources make {made}", decl.ty))),
        }
    };
    match (&decl.def, &sources[..]) {
        (ParamDef::File { tensor, .. }, _) => {
            if tensor.len() > MAX_NAME {
                let message = format!("the tensor's name has {} bytes, more than {MAX_NAME}", tensor.len());
                return Err((Rule::NameSyntax, message));
            }
            let blocks = BlockFormat::of(decl.ty.dtype).is_some();
            let stored = match decl.ty.layout {
                Layout::Tile16 => true,
                Layout::I2s128 | Layout::Row16 => !blocks,
                layout => layout.is_packed_ternary() && !blocks,
            };
            if (decl.ty.dtype == DType::Ter || blocks) && !stored {
                let message = format!(
                    "{} has no bytes that a file could hold: expected i2s128, row16, tile16 or trits16",
                    decl.ty
                );
                return Err((Rule::ParamFile, message));
            }
            Ok(())
        }
        (ParamDef::Concat(_), all) => {
            let rule = Rule::ParamConcat;
            let (mut rows, mut cols) = (0u64, None);
            for source in all {
                let (r, c) = matrix(source, rule)?;
                rows += u64::from(r);
                if *cols.get_or_insert(c) != c {
                    return Err((
                        rule,
                        format!("@{} has {c} columns, the sources before it another number", source.name),
                    ));
                }
            }
            match cols {
                Some(cols) => is(rule, rows, cols, Layout::Rows),
                None => Err((rule, "it joins nothing".to_owned())),
            }
        }
        (ParamDef::Interleave16(..), [a, b]) => {
            let rule = Rule::ParamInterleave;
            let (first, second) = (matrix(a, rule)?, matrix(b, rule)?);
            if first != second || !first.0.is_multiple_of(TILE_ROWS) {
                let message = format!("{} and {} must have equal shapes, rows in blocks of 16", a.ty, b.ty);
                return Err((rule, message));
            }
            is(rule, 2 * u64::from(first.0), first.1, Layout::Rows)
        }
        (ParamDef::Relayout(_), [a]) => {
            let rule = Rule::ParamRelayout;
            let blocks = BlockFormat::of(a.ty.dtype).is_some();
            let (rows, cols) = match a.ty.as_matrix() {
                Some(m) if blocks => m,
                _ => matrix(a, rule)?,
            };
            if a.ty.layout == decl.ty.layout {
                return Err((rule, format!("@{} is in this layout already", a.name)));
            }
            if blocks {
                let expected = Type::matrix(a.ty.dtype, rows, cols).with_layout(Layout::Tile16);
                return same(rule, decl, &expected);
            }
            let layout = if decl.ty.layout.is_packed_ternary() { decl.ty.layout } else { Layout::Tile16 };
            is(rule, u64::from(rows), cols, layout)
        }
        (ParamDef::Quantise(_), [a]) => {
            let rule = Rule::ParamQuantise;
            let dense = matches!(a.ty.dtype, DType::F32 | DType::F16 | DType::Bf16);
            let (Some((rows, cols)), true) = (a.ty.as_matrix(), dense) else {
                return Err((rule, format!("@{} is {}, expected an f32, f16 or bf16 matrix", a.name, a.ty)));
            };
            let dtype = match BlockFormat::of(decl.ty.dtype) {
                Some(format) => format.dtype(),
                None => return Err((rule, format!("it is {}, expected a w8, w6 or w4 matrix", decl.ty))),
            };
            same(rule, decl, &Type::matrix(dtype, rows, cols))
        }
        (ParamDef::Interleave16(..) | ParamDef::Relayout(_) | ParamDef::Quantise(_), _) => Ok(()),
    }
}
