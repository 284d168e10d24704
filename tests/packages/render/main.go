// Renders the chart as `helm template` does, with what Debian has: text/template, sprig, yaml.v3.
//
//	render CHART RELEASE [VALUES.yaml]...
//
// Prints each template under "# Source: PATH". What the chart does not use is not here: subcharts, hooks, lookup,
// .Files.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// By way of JSON, as Helm does it, so that numbers are of the type that they are in Helm.
func load(path string) (values map[string]interface{}) {
	var any interface{}
	text, err := os.ReadFile(path)
	fail(err)
	fail(yaml.Unmarshal(text, &any))
	inJSON, err := json.Marshal(any)
	fail(err)
	fail(json.Unmarshal(inJSON, &values))
	return values
}

// Maps are merged, all else is replaced; null takes a default away.
func merge(into, from map[string]interface{}) {
	for key, value := range from {
		below, isMap := value.(map[string]interface{})
		base, wasMap := into[key].(map[string]interface{})
		switch {
		case value == nil:
			delete(into, key)
		case isMap && wasMap:
			merge(base, below)
		default:
			into[key] = value
		}
	}
}

func functions(all *template.Template) template.FuncMap {
	f := sprig.TxtFuncMap()
	delete(f, "env")
	delete(f, "expandenv")
	f["toYaml"] = func(value interface{}) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	f["required"] = func(warning string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return nil, fmt.Errorf("%s", warning)
		}
		return value, nil
	}
	f["include"] = func(name string, data interface{}) (string, error) {
		var out strings.Builder
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	return f
}

func main() {
	chart, release := os.Args[1], os.Args[2]
	about := map[string]interface{}{}
	for key, value := range load(filepath.Join(chart, "Chart.yaml")) {
		about[strings.ToUpper(key[:1])+key[1:]] = value
	}
	values := load(filepath.Join(chart, "values.yaml"))
	for _, path := range os.Args[3:] {
		merge(values, load(path))
	}
	data := map[string]interface{}{
		"Values": values,
		"Chart":  about,
		"Release": map[string]interface{}{"Name": release, "Namespace": "default", "Service": "Helm",
			"Revision": 1, "IsInstall": true, "IsUpgrade": false},
	}
	all := template.New("").Option("missingkey=zero")
	all.Funcs(functions(all))
	paths, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	fail(err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		fail(err)
		_, err = all.New(path).Parse(string(text))
		fail(err)
	}
	for _, path := range paths {
		var out strings.Builder
		fail(all.ExecuteTemplate(&out, path, data))
		fmt.Printf("---\n# Source: %s\n%s\n", path, strings.ReplaceAll(out.String(), "<no value>", ""))
	}
}
