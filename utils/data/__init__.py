"""Data: from files to tensors.

Reading images     image_reader (one file), class_folders (which files), image_folder (all of a folder as one set)
Few-shot tasks     episode; few_shot_split: glyphs, torchmeta_sets (Omniglot, miniImageNet), few_shot_folder;
                   class_images (decoded once, mapped into memory); ../../torchmeta_loader.py draws the tasks
Pre-training       labelled_images (all classes as one set), views (how an image is varied)
One's own task     own_task (support set, queries, folds); drawings to try it on (python -m utils.data.drawings)
Full task          full_task_data: torchvision_sets or image_folder; image_batches, augmentation
Preparing          prepare (once, also by download): torchmeta_files, from archives or pickled_images
torchmeta itself   torchmeta_mend
"""
