// Command kubernetes reports what Kubernetes would not take in the manifests
// of its arguments: unknown kinds and fields, and values of a wrong type.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log"
	"os"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
)

func main() {
	log.SetFlags(0)
	scheme := runtime.NewScheme()
	if err := errors.Join(core.AddToScheme(scheme), apps.AddToScheme(scheme)); err != nil {
		log.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, name := range os.Args[1:] {
		text, err := os.ReadFile(name)
		if err != nil {
			log.Fatal(err)
		}
		documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
		for {
			document, err := documents.Read()
			if err == io.EOF {
				break
			}
			if err != nil {
				log.Fatalf("%s: %v", name, err)
			}
			if _, _, err := decoder.Decode(document, nil, nil); err != nil {
				log.Fatalf("%s: %v", name, err)
			}
		}
	}
}
