//! Tables of reports: Markdown for documents, columns that stand under one another for terminals.
//!
//! Invariant: both styles have the same cells in the same order.

/// How tables are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableStyle {
    /// Markdown.
    Markdown,
    /// Columns of equal width, two blanks between them.
    Aligned,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    title: String,
    /// Least width in characters, for tables whose rows come one by one.
    width: usize,
    right: bool,
}

impl Column {
    /// A column of words.
    pub fn left(title: impl Into<String>) -> Self {
        Self { title: title.into(), width: 0, right: false }
    }

    /// A column of numbers.
    pub fn right(title: impl Into<String>) -> Self {
        Self { right: true, ..Self::left(title) }
    }

    /// The column with room for `width` characters.
    #[must_use]
    pub fn at_least(self, width: usize) -> Self {
        Self { width, ..self }
    }

    fn cell(&self, text: &str) -> String {
        let width = self.width.max(self.title.chars().count());
        if self.right { format!("{text:>width$}") } else { format!("{text:<width$}") }
    }
}

/// Columns, and rows where they are all known before anything is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row, which has a cell for each column.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// The lines before the first row.
    pub fn head(&self, style: TableStyle) -> String {
        let titles: Vec<String> = self.columns.iter().map(|column| column.title.clone()).collect();
        match style {
            TableStyle::Aligned => self.row(style, &titles),
            TableStyle::Markdown => {
                let rules = self.columns.iter().map(|c| if c.right { "--:|" } else { "---|" });
                format!("{}|{}\n", self.row(style, &titles), rules.collect::<String>())
            }
        }
    }

    /// The line of a row.
    pub fn row(&self, style: TableStyle, cells: &[String]) -> String {
        match style {
            TableStyle::Markdown => {
                let cells = cells.iter().map(|cell| format!(" {} |", cell.replace('|', "/")));
                format!("|{}\n", cells.collect::<String>())
            }
            TableStyle::Aligned => {
                let cells: Vec<String> =
                    self.columns.iter().zip(cells).map(|(c, cell)| c.cell(cell)).collect();
                format!("{}\n", cells.join("  ").trim_end())
            }
        }
    }

    /// All of it, with columns as wide as their widest cell.
    pub fn render(mut self, style: TableStyle) -> String {
        for (i, column) in self.columns.iter_mut().enumerate() {
            let widest = self.rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max();
            column.width = column.width.max(widest.unwrap_or(0));
        }
        self.head(style) + &self.rows.iter().map(|row| self.row(style, row)).collect::<String>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_have_the_same_cells() {
        let mut table = Table::new(vec![Column::left("op"), Column::right("µs")]);
        for row in [["add", "1.5"], ["bitlinear|x", "12.25"]] {
            table.push(row.map(str::to_owned).to_vec());
        }
        assert_eq!(
            table.clone().render(TableStyle::Markdown),
            "| op | µs |\n|---|--:|\n| add | 1.5 |\n| bitlinear/x | 12.25 |\n"
        );
        assert_eq!(
            table.render(TableStyle::Aligned),
            "op              µs\nadd            1.5\nbitlinear|x  12.25\n"
        );
    }

    #[test]
    fn rows_that_come_one_by_one_stand_under_their_titles() {
        let table = Table::new(vec![Column::left("test").at_least(8), Column::right("n").at_least(4)]);
        assert_eq!(table.head(TableStyle::Aligned), "test         n\n");
        assert_eq!(
            table.row(TableStyle::Aligned, &["pp512".to_owned(), "12".to_owned()]),
            "pp512       12\n"
        );
    }
}
