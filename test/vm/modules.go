package vm

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// moduleFiles returns the paths of the named modules and of all they need, in the order in which to
// load them. Modules that are built into this kernel are left out.
func (k *Kernel) moduleFiles(names []string) ([]string, error) {
	dep, err := os.ReadFile(filepath.Join(k.Modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(k.Modules, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	files, err := loadOrder(string(dep), string(builtin), names)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.Release, err)
	}
	for i, f := range files {
		files[i] = filepath.Join(k.Modules, f)
	}
	return files, nil
}

// loadOrder resolves names with the text of modules.dep and modules.builtin (modules.dep(5)).
func loadOrder(dep, builtin string, names []string) ([]string, error) {
	lines := make(map[string][]string) // module name -> its file, then what that needs, nearest first
	for s := bufio.NewScanner(strings.NewReader(dep)); s.Scan(); {
		file, needs, _ := strings.Cut(s.Text(), ":")
		lines[moduleName(file)] = append([]string{file}, strings.Fields(needs)...)
	}
	for _, file := range strings.Fields(builtin) {
		lines[moduleName(file)] = nil
	}
	var order []string
	loaded := make(map[string]bool)
	for _, name := range names {
		files, ok := lines[name]
		if !ok {
			return nil, fmt.Errorf("no module %s", name)
		}
		for i := len(files) - 1; i >= 0; i-- {
			if f := files[i]; !loaded[f] {
				loaded[f] = true
				order = append(order, f)
			}
		}
	}
	return order, nil
}

// moduleName is kvm_amd for kernel/arch/x86/kvm/kvm-amd.ko.xz.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModule returns a module as insmod takes it. Debian compresses modules since release 13.
func readModule(ctx context.Context, file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if _, ext, _ := strings.Cut(path.Base(file), ".ko."); ext != "" {
		return decompress(ctx, ext, data)
	}
	return data, nil
}
