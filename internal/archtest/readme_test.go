package archtest

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pages returns the text of every Markdown file of the module.
func pages(t *testing.T) map[string]string {
	all := make(map[string]string)
	err := walk(".md", func(name string) error {
		text, err := os.ReadFile(filepath.Join(root, name))
		all[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if all["README.md"] == "" {
		t.Fatal("README.md is missing or empty")
	}
	return all
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)[^)]*\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	goBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```")
	command = regexp.MustCompile(`\bgo (?:run|test|build|vet|install)(?: -\S+)* (\./\S*?)(?:[\s` + "`" + `]|$)`)
)

func TestLinksInPagesResolve(t *testing.T) {
	for name, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			switch {
			case strings.Contains(target, ":"): // another site's
			case target == "":
				if !anchors(text)[anchor] {
					t.Errorf("%s links to #%s, but has no such heading", name, anchor)
				}
			default:
				if _, err := os.Stat(filepath.Join(root, path.Dir(name), target)); err != nil {
					t.Errorf("%s links to %s, which is not there", name, target)
				}
			}
		}
	}
}

// anchors are the names by which the headings of a page can be linked to.
func anchors(text string) map[string]bool {
	all := make(map[string]bool)
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		kept := strings.Map(func(r rune) rune {
			if strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_ ", r) {
				return r
			}
			return -1
		}, strings.ToLower(m[1]))
		all[strings.ReplaceAll(kept, " ", "-")] = true
	}
	return all
}

// Go code of a page is that of a program or a test of the module, line by line, so
// that it builds and runs.
func TestCodeInPagesRuns(t *testing.T) {
	var sources []string
	if err := walk(".go", func(name string) error {
		text, err := os.ReadFile(filepath.Join(root, name))
		sources = append(sources, flush(string(text)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for name, text := range pages(t) {
	blocks:
		for _, m := range goBlock.FindAllStringSubmatch(text, -1) {
			for _, s := range sources {
				if strings.Contains(s, "\n"+flush(m[1])) {
					continue blocks
				}
			}
			t.Errorf("%s shows Go code that is in no program or test, as these very lines: copy it from one\n%s", name, m[1])
		}
	}
}

// flush is a text without the indentation of its lines.
func flush(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

func TestCommandsInPagesNamePackages(t *testing.T) {
	for name, text := range pages(t) {
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			dir := strings.TrimSuffix(m[1], "...")
			goFiles, _ := filepath.Glob(filepath.Join(root, dir, "*.go"))
			_, err := os.Stat(filepath.Join(root, dir))
			if all := dir != m[1]; err != nil || !all && len(goFiles) == 0 {
				t.Errorf("%s says %q, but there is no such package", name, strings.TrimSpace(m[0]))
			}
		}
	}
}
